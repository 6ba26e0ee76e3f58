"""``python -m bench [local|rest|cluster …]``: all of them without arguments."""

import sys

from bench import cluster, local, report, rest


def main() -> None:
    """Run the benches that were named."""
    wanted = sys.argv[1:] or ["local", "rest", "cluster"]
    figures: list[report.Figure] = []
    for name, bench in (("local", local.main), ("rest", rest.main), ("cluster", cluster.main)):
        if name in wanted:
            print(f"— {name}")
            figures += bench()
    report.write(figures)


if __name__ == "__main__":
    main()
