"""The Windlass control plane: operator, API and migrations."""
