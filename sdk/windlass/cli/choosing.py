"""Which view shows a run that is being followed: the live one on a terminal, plain lines elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from windlass.cli import output
from windlass.cli.follow import View
from windlass.cli.views import PlainView


@contextmanager
def view() -> Iterator[View]:
    """Give the view that fits where the output goes; a live one is ended with the block."""
    wanted = output.is_terminal(sys.stdout) and output.is_terminal(sys.stderr) and not os.environ.get("CI")
    if not wanted:
        yield PlainView()
        return
    from windlass.cli.live import LiveView  # late: rich takes longer to load than most commands to run

    live = LiveView()
    with live.shown():
        yield live
