"""``python -m bench [local|costs|waits|rest|triggers|children|idle|scale|cluster|pooled …]``: all without arguments."""

import sys
from typing import Final

from bench import children, cluster, costs, idle, local, pooled, report, rest, scale, triggers, waits

_BENCHES: Final = {
    "local": local.main,
    "costs": costs.main,
    "waits": waits.main,
    "rest": rest.main,
    "triggers": triggers.main,
    "children": children.main,
    "idle": idle.main,
    "scale": scale.main,
    "cluster": cluster.main,
    "pooled": pooled.main,
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
