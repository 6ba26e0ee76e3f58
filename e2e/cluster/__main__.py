"""The command line: ``python3 -m e2e.cluster COMMAND``, run from the root of the checkout."""

import argparse
import json
import os
import sys

from . import cluster, images, prerequisites, s3
from .errors import ClusterError
from .progress import say
from .settings import Settings


def main(arguments: list[str]) -> int:
    """Run one command; 0 is success, 1 an error that says what to do, 3 a status that is not healthy."""
    asked = _parser().parse_args(arguments)
    settings = Settings.from_environment()
    os.umask(0o022)  # with root's 077 pods that run as another user could not read their own volumes
    try:
        match asked.command:
            case "up":
                cluster.up(settings)
            case "down":
                cluster.down(settings)
            case "status":
                return 0 if cluster.status(settings) else 3
            case "images":
                images.build_and_import(settings, asked.name)
            case "s3-env":
                prerequisites.require_root()
                say(json.dumps(s3.connection(settings)))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `… | head`: nobody reads on, and that is fine
        return 0
    except KeyboardInterrupt:
        print("error: interrupted; run it again, it goes on where it was", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m e2e.cluster", description="A one-node Kubernetes cluster for tests."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="start the cluster, or repair it; nothing to do when it is healthy")
    commands.add_parser("down", help="end it and remove everything but the cache")
    commands.add_parser("status", help="show what runs; exit code 3 when something does not")
    build = commands.add_parser("images", help="build the project's images and import them into the running cluster")
    build.add_argument("name", nargs="*", metavar="NAME", help="operator, runner, postgres …; all without a name")
    commands.add_parser("s3-env", help="print the S3 server's address and keys as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
