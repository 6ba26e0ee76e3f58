"""The kopf edge."""
