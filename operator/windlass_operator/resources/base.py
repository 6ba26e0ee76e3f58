"""The base of every model, and the scalar types that they share.

A model serves two masters: it reads objects that people wrote, where unknown fields are ignored because a newer release
may know them; and it is the source of the CRD, where the docstring under each field is what ``kubectl explain`` prints.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from windlass.durations import PATTERN, parse_duration
from windlass_operator.domain.errors import WindlassError
from windlass_operator.resources.names import NAME_MAX


class ResourceInvalidError(WindlassError):
    """An object passed the API server and still cannot be used: an old CRD, or a rule that a schema cannot state."""

    code, http_status = "SpecInvalid", 422


class FieldError(ValueError):
    """What a rule over several fields says is wrong with one of them.

    Attributes:
        field: Of the model that has the rule, as it is written.
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class KubeModel(BaseModel):
    """A part of a resource: snake_case here, camelCase on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    @classmethod
    def from_object(cls, raw: Any, *, at: str = "") -> Self:
        """Read a raw Kubernetes object or a part of one.

        Args:
            raw: Decoded JSON, which may be anything: junk must become a message, never a crash.
            at: Path of the part, such as ``spec``, for the message.

        Raises:
            ResourceInvalidError: The first thing that is wrong, with its path.
        """
        try:
            return cls.model_validate(raw)
        except (ValidationError, RecursionError) as error:
            raise _first_problem(error, at) from None

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object, absent fields left out.

        A status written with it must *replace* the old one (JSON Patch on ``/status``). A merge patch would keep what
        is absent now and drop every ``null`` inside a user's result.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _first_problem(error: Exception, at: str) -> ResourceInvalidError:
    if not isinstance(error, ValidationError):
        return ResourceInvalidError(f"{at or 'The object'} is nested too deeply to be read.", field=at or None)
    first = error.errors(include_url=False, include_input=False)[0]
    path = at
    cause = first.get("ctx", {}).get("error")
    for part in (*first["loc"], *([cause.field] if isinstance(cause, FieldError) else [])):
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    said = first["msg"].removeprefix("Value error, ")
    return ResourceInvalidError(f"{path or 'The object'}: {said}", field=path or None)


def _check_duration(text: str) -> str:
    parse_duration(text)
    return text


def validations(*rules: JsonDict) -> JsonDict:
    """Return what goes into a model's ``json_schema_extra``: CEL rules that the API server checks."""
    return {"x-kubernetes-validations": list(rules)}


def rule(cel: str, message: str, *, at: str | None = None) -> JsonDict:
    """Return one CEL rule.

    Args:
        cel: True where the object is good. Written for the field's parent, so that ``has`` can be asked.
        message: What is wrong and what to do next.
        at: Field to name in the error, such as ``.minDelay``.
    """
    found: JsonDict = {"rule": cel, "message": message}
    return found if at is None else {**found, "fieldPath": at}


def clip(limit: int) -> Callable[[Any], Any]:
    """Return a validator that cuts a text at ``limit`` characters.

    For what we write ourselves: a status that the API server refuses for its length would never be projected.
    """

    def cut(value: Any) -> Any:
        return value[: limit - 1] + "…" if isinstance(value, str) and len(value) > limit else value

    return cut


Duration = Annotated[str, Field(pattern=PATTERN, max_length=32), AfterValidator(_check_duration)]
"""A duration as people write it: ``1h30m``, ``500ms``, ``2d``."""

_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NUMBER: Final = r"(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
_QUANTITY: Final = rf"^(\+|-)?{_NUMBER}(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?{_NUMBER}))?$"

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=NAME_MAX, pattern=rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$"),
]
"""Name of an object of the same namespace."""

Word = Annotated[str, Field(max_length=1024), BeforeValidator(clip(1024))]
"""A short text that we write into a status. Generous: exceptions and steps are named by users."""

Message = Annotated[str, Field(max_length=4096), BeforeValidator(clip(4096))]
"""A text for people that we write into a status."""

FreeForm = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""Any JSON value, kept as it is."""

FreeFormObject = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
"""Any JSON object, kept as it is."""

Quantity = Annotated[
    str | int,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 64,
            "pattern": _QUANTITY,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
"""A Kubernetes quantity: ``100m``, ``64Mi``, ``2``."""
