"""``windlass-operator``: the control plane's processes, one command each."""

import argparse
import asyncio
import os
import sys
from typing import Final, Literal

import psycopg

from windlass_operator import logs
from windlass_operator.config import Config
from windlass_operator.domain.errors import WindlassError

_DEEP_JSON: Final = 60_000
"""Recursion limit: a Run whose payload is nested thousands deep must not end the watch that carries it."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exit code 1 with a message for an expected failure."""
    parser = argparse.ArgumentParser(prog="windlass-operator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("operator", help="watch resources, start pods, write statuses (one leader by Lease)")
    commands.add_parser("api", help="serve the REST API and the runners' protocol")
    migrate = commands.add_parser("migrate", help="bring the ledger to this release's schema")
    migrate.add_argument("--wait", type=float, default=300, help="seconds to wait for Postgres (default 300)")
    bootstrap = commands.add_parser("bootstrap-postgres", help="create the embedded database's Secret once")
    bootstrap.add_argument("--secret", default="windlass-postgres")
    bootstrap.add_argument("--host", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="look at configuration, ledger, object store, resources and permissions; say how to mend what is wrong",
        epilog="Run it in a pod: kubectl -n windlass-system exec deploy/windlass-operator -- windlass-operator doctor",
    )
    doctor.add_argument(
        "--process", choices=("operator", "api"), default="operator", help="whose permissions (default: operator)"
    )
    doctor.add_argument(
        "--verify-ledger",
        action="store_true",
        help="check instead that the rules of the ledger hold of every run, and that pods, Run resources and stored "
        "values agree with it; changes nothing, and runs may go on",
    )
    doctor.add_argument(
        "--ledger-only", action="store_true", help="with --verify-ledger: leave out the cluster and the object store"
    )
    doctor.add_argument("--json", action="store_true", help="with --verify-ledger: for programs")
    doctor.add_argument(
        "--page", type=int, default=5000, metavar="RUNS", help="with --verify-ledger: runs at once (default: 5000)"
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except WindlassError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)  # noqa: T201 - the command's own answer
        raise SystemExit(1) from None
    except psycopg.OperationalError as error:
        print(f"LedgerUnavailable: {error}", file=sys.stderr)  # noqa: T201 - the command's own answer
        raise SystemExit(1) from None


def _run(options: argparse.Namespace) -> None:
    if options.command == "bootstrap-postgres":
        from windlass_operator.bootstrap import bootstrap_postgres

        logs.configure("info")
        asyncio.run(bootstrap_postgres(options.secret, options.host))
        return
    if options.command == "doctor":
        if options.verify_ledger:
            page = max(1, options.page)
            asyncio.run(_verify(as_json=options.json, page=page, ledger_only=options.ledger_only))
        else:
            asyncio.run(_doctor(options.process))
        return
    config = Config.from_env()
    logs.configure(config.log_level, style=config.log_style)
    sys.setrecursionlimit(_DEEP_JSON)
    if options.command == "migrate":
        from windlass_operator.ledger.migrate import migrate

        migrate(config.postgres_uri, wait=options.wait)
        return
    if "WINDLASS_FAILPOINTS" in os.environ:
        from windlass_operator import failpoints

        failpoints.install("api" if options.command == "api" else "operator")
    import uvloop

    from windlass_operator import processes  # late: the other commands must not pay for a web server and kopf

    uvloop.run(processes.serve_api(config) if options.command == "api" else processes.operate(config))


async def _doctor(process: Literal["operator", "api"]) -> None:
    from windlass.findings import failed
    from windlass_operator import doctor

    logs.configure("error")
    found = []
    async for finding in doctor.examine(process):
        found.append(finding)
        print(finding.line(coloured=sys.stdout.isatty()), flush=True)  # noqa: T201 - the command's own answer
    if failed(found):
        raise SystemExit(1)


async def _verify(*, as_json: bool, page: int, ledger_only: bool) -> None:
    from windlass_operator import verify

    logs.configure("error")
    if not await verify.verify(as_json=as_json, page=page, ledger_only=ledger_only):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
