"""Use cases. Both edges call these."""
