"""``python -m bench [local|rest|scale|cluster …]``: all of them without arguments."""

import sys

from bench import cluster, local, report, rest, scale


def main() -> None:
    """Run the benches that were named."""
    wanted = sys.argv[1:] or ["local", "rest", "scale", "cluster"]
    figures: list[report.Figure] = []
    for name, bench in (("local", local.main), ("rest", rest.main), ("scale", scale.main), ("cluster", cluster.main)):
        if name in wanted:
            print(f"— {name}")
            figures += bench()
    report.write(figures)


if __name__ == "__main__":
    main()
