"""A project: a namespace with its UID."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Project:
    """A namespace as it is now. A re-created one has another UID and never sees its predecessor's data."""

    uid: str
    namespace: str
