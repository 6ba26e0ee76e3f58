"""Sends log lines as a runner does, once it is told to: starting Python is no part of what is measured."""

import http.client
import json
import sys
from typing import Final
from urllib.parse import urlsplit

_BATCH: Final = 500
_TEXT: Final = (
    "2026-11-21 07:30:00 INFO order 7 of customer 81 was charged and is on its way to the packing line, shelf 4"
)


def main() -> None:
    """Send ``lines`` lines from number ``first`` on: arguments url, token, first, lines."""
    url, token, first, lines = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    bodies = []
    for start in range(first, first + lines, _BATCH):
        batch = [{"seq": n, "stream": "stdout", "text": _TEXT, "ageMs": 1} for n in range(start, start + _BATCH)]
        bodies.append(json.dumps({"lines": batch}).encode())
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    for body in bodies:
        connection.request("POST", "/runtime/v1/logs", body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{answer.status} {data[:300].decode()}")


if __name__ == "__main__":
    main()
