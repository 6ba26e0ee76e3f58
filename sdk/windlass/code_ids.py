"""Which code runs: a short hash that stands beside each step it saves, and names it in a divergence."""

import hashlib
import sys


def code_id(entrypoint: str, source: str | None) -> str | None:
    """Return 12 hexadecimal digits of the task's code; None where it cannot be read.

    It is the hash of one file, the entrypoint's module: what that imports may change without changing it.

    Args:
        entrypoint: ``module:function``, whose module is imported.
        source: Text of the module, if the Task carries it.
    """
    if source is not None:
        return _hash(source.encode(errors="surrogatepass"))
    path = getattr(sys.modules.get(entrypoint.partition(":")[0]), "__file__", None)
    try:
        with open(path or "", "rb") as file:  # noqa: PTH123 - pathlib would cost milliseconds of every start
            return _hash(file.read())
    except (OSError, TypeError, ValueError):  # out of an archive, or whatever the module wrote there
        return None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
