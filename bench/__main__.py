"""``python -m bench [local|waits|rest|children|idle|scale|cluster …]``: all of them without arguments."""

import sys
from typing import Final

from bench import children, cluster, idle, local, report, rest, scale, waits

_BENCHES: Final = {
    "local": local.main,
    "waits": waits.main,
    "rest": rest.main,
    "children": children.main,
    "idle": idle.main,
    "scale": scale.main,
    "cluster": cluster.main,
}


def main() -> None:
    """Run the benches that were named."""
    wanted = sys.argv[1:] or list(_BENCHES)
    figures: list[report.Figure] = []
    for name, bench in _BENCHES.items():
        if name in wanted:
            print(f"— {name}")
            figures += bench()
    report.write(figures)


if __name__ == "__main__":
    main()
