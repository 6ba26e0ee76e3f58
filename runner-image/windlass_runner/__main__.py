"""``python -m windlass_runner``."""

from windlass_runner.main import main

main()
