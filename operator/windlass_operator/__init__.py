"""The Windlass control plane: operator, API and migrations."""

__version__ = "0.1.0"
