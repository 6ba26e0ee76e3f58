"""``python -m windlass.cli``: where the scripts are not on the PATH."""

from windlass.cli import main

main()
