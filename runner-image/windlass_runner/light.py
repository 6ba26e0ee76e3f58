"""Imports of process 1 that would cost more than they give."""

import sys


def import_msgspec() -> None:
    """Import msgspec without ``typing_extensions``, which it can do without and which imports ``inspect``.

    A third of process 1's imports. It is hidden for this one import only: user code, in other processes, has it.
    """
    name = "typing_extensions"
    hide = name not in sys.modules
    if hide:
        sys.modules[name] = None  # type: ignore[assignment]  # how the import system is told that there is no such module
    try:
        import msgspec  # noqa: F401 - to have it in sys.modules is the purpose
    finally:
        if hide:
            del sys.modules[name]
