"""Large values outside the ledger: one interface, an object store behind it, and an in-memory twin for tests."""
