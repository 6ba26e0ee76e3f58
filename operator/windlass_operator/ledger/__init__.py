"""Postgres: named SQL, migrations, one module for each aggregate."""
