"""A client of a running server, with nothing but the standard library.

    millirec serve my.bundle            # in another terminal
    python examples/live.py http://127.0.0.1:8000 ITEM [ITEM ...]

Prints what a new visitor is recommended before and after each of the items.
"""

import json
import sys
import time
import urllib.request
from typing import Any


def post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def main(server: str, items: list[str]) -> None:
    visitor = f"visitor-{time.time_ns()}"
    for item in [None, *items]:
        if item is not None:
            post(f"{server}/feedback", {"event": "interaction", "session": visitor, "item": item, "type": "view"})
        answer = post(f"{server}/recommend", {"session": visitor, "k": 5})
        print(f"after {item or 'nothing'}:", ", ".join(entry["item"] for entry in answer["items"]))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1].rstrip("/"), sys.argv[2:])
