"""`millirec serve`: a bundle answers over HTTP."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from millirec.cli.console import note
from millirec.cli.engine import cascade_config, engine_settings
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from millirec.server.settings import ServerSettings

_TOKEN = "MILLIREC_ADMIN_TOKEN"  # noqa: S105 - its name
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    host: Annotated[str, typer.Option(help="The address to listen on; loopback by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one and prints it.")] = 8000,
    workers: Annotated[int, typer.Option(help="Worker processes that share one state.")] = 1,
    data: Annotated[
        Path, typer.Option(help="The folder of the event log and the user state; made when missing.")
    ] = Path("millirec-data"),
    max_in_flight: Annotated[int, typer.Option(help="Requests a worker handles at a time.")] = 1024,
    expire_after_days: Annotated[
        float | None,
        typer.Option(help="Forget users and sessions untouched for so long; their events stay in the log."),
    ] = None,
    impressions: Annotated[
        bool,
        typer.Option("--impressions", help="Log what is shown, as JSON lines in the folder `impressions` of --data."),
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
    cascade: Annotated[
        Path | None, typer.Option(help="A TOML file with a cascade to use instead of the bundle's own.")
    ] = None,
    bundles: Annotated[
        Path | None,
        typer.Option(help="Open POST /bundles, which swaps to a bundle below this folder while serving."),
    ] = None,
    engine: Annotated[Path | None, typer.Option(help="A TOML file of engine settings, such as `carry_mb = 0`.")] = None,
    yardstick: Annotated[
        bool, typer.Option("--yardstick", help="Open POST /noop, which `millirec bench` compares with.")
    ] = False,
    with_parent: Annotated[
        int | None, typer.Option(help="The process that starts this one, by its id: stop when it is gone (Linux).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the ready line as JSON.")] = False,
) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C: in-flight requests end, accepted events are on the disk.

    Prints one line with the address when it is ready. HTTP interface: /docs on the running server.
    """
    from millirec.engine.impressions import ImpressionSettings
    from millirec.server.settings import ServerSettings
    from millirec.server.tether import tie_to_parent

    if with_parent is not None:
        tie_to_parent(with_parent)
    if not bundle.is_dir():
        raise ArtifactError(f"{bundle}: no such folder", "make a bundle with `millirec pack`")
    settings = ServerSettings(
        bundle=str(bundle.resolve()),
        data=str(data.resolve()),
        host=host,
        port=port,
        workers=workers,
        max_in_flight=max_in_flight,
        access_log=access_log,
        expire_after_days=expire_after_days,
        yardstick=yardstick,
        engine=engine_settings(engine),
        cascade=cascade_config(cascade),
        cascade_file=None if cascade is None else str(cascade),
        bundles=None if bundles is None else str(_folder(bundles)),
        admin_token=_admin_token(host, asked=bundles is not None),
        impressions=ImpressionSettings() if impressions else None,
    )
    if host not in _LOOPBACK:
        note("[yellow]anybody who reaches this address can read and write: there is no log-in[/yellow]")
    sys.exit(_run(settings, json=json))


def _folder(bundles: Path) -> Path:
    if not bundles.is_dir():
        raise ConfigError(f"--bundles {bundles}: no such folder", "name the folder that holds bundles")
    return bundles.resolve()


def _admin_token(host: str, *, asked: bool) -> str | None:
    """What calls that change bundles must bring. Raises ConfigError where anybody could make them."""
    token = os.environ.get(_TOKEN, "").strip() or None
    if asked and token is None and host not in _LOOPBACK:
        raise ConfigError(
            f"--bundles with --host {host}: anybody who reaches this address could change what serves",
            f"set the environment variable {_TOKEN}; such calls then need `authorization: Bearer` with it",
        )
    return token if asked else None


def _run(settings: "ServerSettings", *, json: bool) -> int:
    from millirec.server.address import reserve, url_of

    with reserve(settings.host, settings.port, shared=settings.workers > 1) as listener:
        ready = _announcer(settings, url_of(listener), json=json)
        if settings.workers == 1:
            from millirec.server.process import serve

            serve(settings, listener, ready)
            return 0
        from millirec.server.supervisor import Supervisor

        return Supervisor(settings, listener, ready).run()


def _announcer(settings: "ServerSettings", url: str, *, json: bool) -> Callable[[str, str], None]:
    def announce(model: str, version: str) -> None:
        said = {"url": url, "model": model, "version": version, "data": settings.data, "workers": settings.workers}
        line = f"serving {model} {version} at {url}  (docs: {url}/docs, data: {settings.data})"
        # One line, at once: scripts wait for it.
        print(msgspec.json.encode(said).decode() if json else line, flush=True)

    return announce
