"""A second process for the tests of the shared store: `child.py ROLE FOLDER ...`. Not a test by itself."""

import json
import os
import resource
import sys
from pathlib import Path

from millirec.data.errors import UnavailableError
from millirec.data.event import Event, ItemUpdate
from millirec.engine.state import StateStore, StoreSettings


def say(text: str) -> None:
    print(text, flush=True)


def stream(store: StateStore) -> None:
    """Write for ever, by both doors; say what is acknowledged, as it is."""
    say("ready")
    n = 0
    while True:
        group = [Event(user=f"u{(n + m) % 7}", item=f"i{(n + m) % 50}", time=n + m) for m in range(3)]
        future = store.submit(group)
        store.append([Event(user="solo", item=f"i{n % 11}", time=n)])
        future.result()
        say(str(n))
        n += 3


def obey(store: StateStore) -> None:
    """Do what the lines on standard input ask for."""
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        match order["do"]:
            case "event":
                store.append([Event(user=order["user"], item=order["item"], time=order["time"])])
                say("done")
            case "item":
                store.append([ItemUpdate(item=order["item"], time=0, fields=order["fields"])])
                say("done")
            case "many":
                store.append([Event(user=f"m{n}", item=f"i{n}", time=n) for n in range(order["n"])])
                say("done")
            case "read":
                names = store.names()
                say(json.dumps([names[code - 1] for code in store.history(f"u:{order['user']}".encode()).items]))


def full(store: StateStore) -> None:
    """Write until files may not grow any more, then make room and write on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, resource.RLIM_INFINITY))
    n = 0
    try:
        while True:
            store.append([Event(user=f"u{m}", item="i", time=n) for m in range(500)])
            n += 1
    except UnavailableError as error:
        say(str(error))
    say(str(n))
    say(str(sum(1 for _ in store.records())))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.append([Event(user="last", item="i", time=0)])
    say(str(sum(1 for _ in store.records())))


def fork(store: StateStore) -> None:
    """A child of the process that opened the store must not use it."""
    if os.fork() == 0:
        try:
            store.history(b"u:ann")
        except RuntimeError as error:
            say(str(error))
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    role, folder, map_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with StateStore(folder, StoreSettings(map_bytes=map_bytes)) as opened:
        {"stream": stream, "obey": obey, "full": full, "fork": fork}[role](opened)
