"""The load generator against servers whose behaviour is known."""

import http.server
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from millirec.data.errors import ConfigError, UnavailableError
from millirec.frontier.load import LoadSettings, load, schedule
from millirec.frontier.processes import ProcessTree
from millirec.frontier.questions import Questions, request, requests

# Answers at once, but sleeps once, for `stall` seconds, when the n-th request has come in. Every tenth request
# that holds "bad" gets a 503.
_SERVER = """
import asyncio, sys, time
stall, at = float(sys.argv[1]), int(sys.argv[2])
class Server(asyncio.Protocol):
    n = 0
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data):
        Server.n += 1
        if Server.n == at: time.sleep(stall)
        if b"/close" in data:
            self.transport.write(b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: 2\\r\\n\\r\\nok")
            self.transport.close()
        elif b"/break" in data and Server.n % 10 == 0:
            self.transport.abort()
        else:
            status = b"503 No" if b"/bad" in data and Server.n % 10 == 0 else b"200 OK"
            self.transport.write(b"HTTP/1.1 " + status + b"\\r\\ncontent-length: 2\\r\\n\\r\\nok")
async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def known_server(stall: float = 0.0, at: int = -1) -> Iterator[tuple[int, int]]:
    """Port and process id of a server that stalls once."""
    command = [sys.executable, "-c", _SERVER, str(stall), str(at)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def sent(path: str = "/", n: int = 1) -> list[bytes]:
    return [request("x", path, {"n": i}) for i in range(n)]


def test_a_stall_is_not_hidden() -> None:
    """200 requests/s for 1.5 s; the server sleeps 0.5 s once. 100 requests fall due while it sleeps, and wait
    0.25 s on average. Four connections that waited for their answers would have seen 4 slow requests of 300."""
    with known_server(stall=0.5, at=100) as (port, _):
        settings = LoadSettings(rate=200, seconds=1.5, warm_up=0, connections=4)
        report = load("127.0.0.1", port, sent(), settings)
    assert report.n == 300
    assert report.errors == {}
    assert report.latency_ms.max >= 480
    # The third that falls due in the stall: percentile 67 is where they begin, 83 their middle, 90 at 0.35 s.
    assert report.latency_ms.p90 > 250
    assert report.latency_ms.mean > 60
    assert report.latency_ms.p50 < 100


def test_the_closed_loop_sees_the_same_stall_but_once_a_connection() -> None:
    with known_server(stall=0.3, at=500) as (port, _):
        report = load("127.0.0.1", port, sent(), LoadSettings(seconds=1, warm_up=0, connections=4))
    assert report.mode == "closed loop"
    assert report.latency_ms.max >= 290
    assert report.latency_ms.p90 < 100
    assert report.requests_per_second > 500


def test_errors_are_counted_by_status_and_keep_out_of_the_latencies() -> None:
    with known_server() as (port, _):
        report = load("127.0.0.1", port, sent("/bad"), LoadSettings(rate=400, seconds=0.5, warm_up=0))
    assert report.n == 200
    assert report.errors == {"503": 20}


def test_broken_connections_are_errors_and_others_are_opened() -> None:
    with known_server() as (port, _):
        settings = LoadSettings(rate=400, seconds=0.5, warm_up=0, connections=1)
        report = load("127.0.0.1", port, sent("/break"), settings)
    assert report.n == 200
    assert report.errors == {"no answer": 20}


def test_a_server_that_closes_every_connection_is_served_all_the_same() -> None:
    with known_server() as (port, _):
        settings = LoadSettings(rate=200, seconds=0.5, warm_up=0, connections=2)
        report = load("127.0.0.1", port, sent("/close"), settings)
    assert report.n == 100
    assert report.errors == {}


def test_a_server_that_never_answers_shows_in_the_latency() -> None:
    with known_server(stall=30, at=1) as (port, _):
        settings = LoadSettings(rate=100, seconds=0.3, warm_up=0, connections=2, patience=0.2)
        report = load("127.0.0.1", port, sent(), settings)
    assert report.n == 30
    assert report.errors == {"no answer": 30}
    assert report.latency_ms.max > 400
    assert report.requests_per_second == 0


def test_warm_up_is_left_out() -> None:
    """The stall falls into the warm-up and is over before the measured time begins."""
    with known_server(stall=0.8, at=10) as (port, _):
        settings = LoadSettings(rate=100, seconds=0.5, warm_up=1.2, connections=4)
        report = load("127.0.0.1", port, sent(), settings)
    assert report.n == 50
    assert report.latency_ms.max < 700


def test_cpu_and_memory_of_the_server_are_read() -> None:
    with known_server() as (port, pid):
        report = load("127.0.0.1", port, sent(), LoadSettings(seconds=0.6, warm_up=0.1), ProcessTree.known(pid))
    assert report.server is not None
    assert report.server.cpu > 0.05  # of a core, however busy the machine is with other work
    assert 4 < report.server.rss_mb < 200
    assert report.server.processes == 1


def test_children_belong_to_the_tree() -> None:
    with known_server() as (_, pid):
        assert pid in ProcessTree(os.getpid()).pids()
    assert ProcessTree.known(2**22 + 1) is None


def test_nobody_there() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as taken:
        port = taken.server_address[1]
    with pytest.raises(UnavailableError, match="does not answer"):
        load("127.0.0.1", port, sent(), LoadSettings(rate=10, seconds=0.1))


def test_a_slow_generator_says_so() -> None:
    """Another thread of this process keeps the interpreter busy: the generator notices late that requests are due."""
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            math.factorial(20_000)

    thread = threading.Thread(target=spin)
    with known_server() as (port, _):
        thread.start()
        try:
            report = load("127.0.0.1", port, sent(), LoadSettings(rate=500, seconds=0.6, warm_up=0.1))
        finally:
            stop.set()
            thread.join()
    assert report.generator_is_bottleneck
    assert "the generator is the bottleneck" in report.verdict


def test_schedules() -> None:
    even = schedule(LoadSettings(rate=10, seconds=1, warm_up=0.5))
    np.testing.assert_allclose(even, np.arange(15) / 10)
    settings = LoadSettings(rate=1000, seconds=9, warm_up=1, arrivals="poisson", seed=3)
    random = schedule(settings)
    np.testing.assert_array_equal(random, schedule(settings))
    assert (np.diff(random) > 0).all()
    assert random[-1] < 10
    # Poisson: as many as expected within 5 standard deviations, and gaps whose deviation equals their mean.
    assert abs(len(random) - 10_000) < 500
    assert np.std(np.diff(random)) == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": -1}, {"seconds": 0}, {"connections": 0}, {"warm_up": -1}])
def test_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LoadSettings(**wrong)


def test_requests_carry_whole_histories() -> None:
    made = requests(Questions(history=3, n=5, k=7), "h:1", ["a", "b"])
    assert len(made) == 5
    head, body = made[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /recommend HTTP/1.1\r\nhost: h:1\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert body.count(b'"a"') + body.count(b'"b"') == 3
    assert b'"k":7' in body


def test_mixed_requests_ask_right_after_the_event() -> None:
    made = requests(Questions(path="mixed", n=3), "h", ["a"])
    assert [line.split()[1] for line in made] == [b"/feedback", b"/recommend"] * 3
    assert all(b'"user":"bench-%d"' % (i // 2) in line for i, line in enumerate(made))
    with pytest.raises(ConfigError, match="path"):
        Questions(path="/elsewhere")
