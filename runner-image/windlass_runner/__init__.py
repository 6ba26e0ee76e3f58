"""The Windlass runner: process 1 of every runner pod."""

from typing import Final

STOP_SIGNALS: Final = (15, 2)
"""SIGTERM and SIGINT."""
