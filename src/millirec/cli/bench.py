"""`millirec bench`: how fast does a server answer, and at what cost."""

import ipaddress
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec
import typer

from millirec.cli.console import note, out, print_json, table
from millirec.cli.engine import engine_settings
from millirec.data.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from millirec.frontier.load import LoadReport, LoadSettings
    from millirec.frontier.questions import Questions


class Served(NamedTuple):
    """A bundle and how a server of its own is started for it."""

    folder: Path
    workers: int
    options: tuple[str, ...]


def bench(
    target: Annotated[str, typer.Argument(help="A bundle's folder, or a server's URL.", metavar="BUNDLE|URL")],
    rate: Annotated[
        float | None, typer.Option(help="Requests a second on schedule; without it, as many as can be.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measured time.")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before that, not measured.")] = 2.0,
    connections: Annotated[int, typer.Option("--connections", "-c", help="Keep-alive connections.")] = 32,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random instead of even arrivals.")] = False,
    path: Annotated[str, typer.Option(help="/recommend, /noop, /feedback or mixed.")] = "/recommend",
    history: Annotated[int, typer.Option(help="Events of each history.")] = 50,
    k: Annotated[int, typer.Option("-k", help="Items asked for.")] = 10,
    users: Annotated[Path | None, typer.Option(help="A file of user ids to ask for, one a line.")] = None,
    known_users: Annotated[
        int, typer.Option(help="First feed so many new users a history each, then ask for them.")
    ] = 0,
    workers: Annotated[int, typer.Option(help="Workers of the server started for a bundle.")] = 1,
    engine: Annotated[
        Path | None, typer.Option(help="A TOML file of engine settings for the server started for a bundle.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of requests and arrivals.")] = 0,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Load a server that is not on this machine.")
    ] = False,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Let test events into the log of the server at a URL.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Load a server: latency percentiles, requests/s, errors, CPU and memory.

    With --rate, requests leave on schedule and latency counts from the scheduled time. Without it, every connection
    sends its next request on the answer: the most that the server can do. A BUNDLE is served by a server of its own
    on one core, with the generator on another; requests carry whole histories, so each is encoded in full.
    """
    from millirec.frontier.load import LoadSettings
    from millirec.frontier.questions import Questions

    settings = LoadSettings(
        rate=rate, seconds=seconds, warm_up=warm_up, connections=connections, seed=seed,
        arrivals="poisson" if poisson else "even",
    )  # fmt: skip
    named = _users(users) if users else tuple(f"bench-{i}" for i in range(known_users))
    questions = Questions(path=path, history=history, k=k, users=named, seed=seed)
    if "://" in target:
        _check_url(target, allow_remote=allow_remote)
        if (questions.writes or known_users) and not allow_writes:
            raise ConfigError("this load writes test events into that server's log", "add --allow-writes")
        report = _load_url(target, questions, settings, feed_first=known_users > 0)
    else:
        engine_settings(engine)  # refused here, not by the server
        served = Served(Path(target), workers, () if engine is None else ("--engine", str(engine)))
        report = _load_bundle(served, questions, settings, feed_first=known_users > 0)
    asked = {"target": target, "questions": msgspec.structs.replace(questions, users=()), "settings": settings}
    if json:
        print_json(msgspec.to_builtins(asked) | msgspec.to_builtins(report))
    else:
        _show(target, report)


def _users(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--users {file}: cannot be read ({error})", "give a text file") from error
    if not names:
        raise ConfigError(f"--users {file}: names nobody", "write one id a line")
    return names


def _check_url(url: str, *, allow_remote: bool) -> None:
    where = urlsplit(url)
    if where.scheme != "http" or not where.hostname or where.path not in ("", "/"):
        raise ConfigError(f"{url}: not an address to load", "give http://HOST:PORT")
    try:
        found = socket.getaddrinfo(where.hostname, where.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{url}: unknown host ({error.strerror})", "check the address") from error
    if not allow_remote and not all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found):
        raise ConfigError(f"{url} is another machine", "load only servers that are yours; then add --allow-remote")


def _load_url(url: str, questions: "Questions", settings: "LoadSettings", *, feed_first: bool) -> "LoadReport":
    from millirec.frontier.launch import cores_apart
    from millirec.frontier.load import load
    from millirec.frontier.processes import ProcessTree
    from millirec.frontier.questions import feed, popular, requests, server_pid

    items = popular(url)
    if feed_first:
        feed(url, questions, items)
    where = urlsplit(url)
    tree = ProcessTree.known(server_pid(url)) if _is_here(where.hostname or "") else None
    with cores_apart():
        ready = requests(questions, where.netloc, items)
        return load(where.hostname or "", where.port or 80, ready, settings, tree)


def _is_here(host: str) -> bool:
    found = socket.getaddrinfo(host, None)
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def _load_bundle(target: Served, questions: "Questions", settings: "LoadSettings", *, feed_first: bool) -> "LoadReport":
    from millirec.bundle import open_bundle
    from millirec.frontier.launch import cores_apart, server
    from millirec.frontier.load import load
    from millirec.frontier.processes import ProcessTree
    from millirec.frontier.questions import feed, requests

    bundle = open_bundle(target.folder)
    items, weights = bundle.catalog.vocabulary.ids, (bundle.popularity[1:] + 1).astype("float64")
    with ExitStack() as stack:
        cores, _ = stack.enter_context(cores_apart(target.workers))
        if cores is None:
            note("one core for server and generator together: the figures are too low")
        running = stack.enter_context(server(target.folder, target.workers, cores, target.options))
        where = urlsplit(running.url)
        if feed_first:
            feed(running.url, questions, items)
        ready = requests(questions, where.netloc, items, weights)
        if where.hostname is None or where.port is None:
            raise UnavailableError(f"{running.url}: no address", "start the server by hand, give its URL")
        return load(where.hostname, where.port, ready, settings, ProcessTree.known(running.pid))


def _show(target: str, report: "LoadReport") -> None:
    latency, server = report.latency_ms, report.server
    rows = [["requests/s", f"{report.requests_per_second:,.0f}"], ["requests", f"{report.n:,}"]]
    names = {"p50": "p50", "p90": "p90", "p99": "p99", "p99_9": "p99.9", "max": "max"}
    rows += [[f"{shown} ms", f"{getattr(latency, name):.3f}"] for name, shown in names.items()]
    errors = ", ".join(f"{count:,} x {status}" for status, count in report.errors.items())
    rows.append(["errors", errors or "none"])
    if server:
        rows += [["server CPU, cores", f"{server.cpu:.2f}"], ["server memory, MiB", f"{server.rss_mb:,.0f}"]]
    table(f"{target}: {report.mode}, {report.seconds:g} s", ["", ""], rows)
    out.print(report.verdict, highlight=False)
