"""Other systems beside ours, in one interleaved run. Installed into ``.bench/peers`` on demand, never shipped."""
