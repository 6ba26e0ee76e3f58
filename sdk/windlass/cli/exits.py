"""Exit codes, and the one place where an error becomes a message and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from windlass.cli.output import tell
from windlass.errors import ApiError, WindlassError

RUN_FAILED: Final = 1
USAGE: Final = 2
API: Final = 3
INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 141
"""What a shell reports for a program that ended because nobody read on (`windlass runs list | head -1`)."""


def usage(message: str) -> click.exceptions.Exit:
    """Say what is wrong with the command; raise what this returns."""
    tell(message)
    return click.exceptions.Exit(USAGE)


def show_error(error: ApiError) -> None:
    """Print code and message, then the field and what to do, where they are known."""
    tell(f"{error.code}: {error.message}")
    if error.field:
        tell(f"  field: {error.field}")
    if error.hint:
        tell(f"  hint:  {error.hint}")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what goes wrong inside into a message on standard error and an exit code; nobody reads tracebacks."""
    try:
        yield
    except ApiError as error:
        show_error(error)
        raise click.exceptions.Exit(API) from None
    except WindlassError as error:  # a value that cannot be sent
        raise usage(str(error)) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The interpreter flushes at exit, and would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(_PIPE_CLOSED) from None
    except (click.exceptions.Exit, click.Abort, click.ClickException):
        raise
    except Exception as error:
        if os.environ.get("WINDLASS_DEBUG"):
            raise
        tell(f"InternalError: {type(error).__name__}: {error}")
        tell("  hint:  This is a fault of the command line. WINDLASS_DEBUG=1 shows where; please report it.")
        raise click.exceptions.Exit(API) from None
