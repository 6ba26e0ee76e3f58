"""Proof by crashing: one scenario again and again, each time with a death or a lost reply at another call."""
