"""Known bugs as patches. Each must be caught by the tests that its header names: ``make mutants``."""
