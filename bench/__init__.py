"""Benchmarks: ours, and the floor under it, in one run. Ratios and medians, never timed tests."""
