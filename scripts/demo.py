"""The whole way, once: data -> baselines and a deep model -> bundle -> server -> answers that change.

python scripts/demo.py            leaves the server running until Ctrl-C
DETACH=1 python scripts/demo.py   stops the server at the end and exits 0
DEMO_MINUTES=1                    trains the deep model for a minute (4 when absent)
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs" / "demo"
GROUPLENS = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
DEEP = "linear-recurrent"
MODELS = {
    "popularity": 'kind = "popularity"',
    "item-knn": 'kind = "item-knn"',
    DEEP: 'kind = "linear-recurrent"',
}


def main() -> None:
    began = time.monotonic()
    shutil.rmtree(RUNS, ignore_errors=True)
    RUNS.mkdir(parents=True)
    source = find_data()
    for name, model in MODELS.items():
        train(name, model, source)
    show_table()
    bundle = RUNS / "bundle"
    millirec("pack", str(RUNS / DEEP / "checkpoint"), "-o", str(bundle))
    server, address = serve(bundle)
    try:
        show_live_answers(address, bundle)
        print(f"\nFrom the log to live answers in {(time.monotonic() - began) / 60:.1f} minutes.")
        if os.environ.get("DETACH") not in (None, "", "0"):
            return
        print(f"The server runs at {address} (its API: {address}/docs). Ctrl-C stops it.")
        server.wait()
    except KeyboardInterrupt:
        print("\nstopping")
    finally:
        stop(server)


def find_data() -> str:
    """The [data] section: MovieLens-1M from a folder, else downloaded, else simulated. Says which."""
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / "ml-1m"
    if folder.is_dir():
        say(f"data: MovieLens-1M from {os.path.relpath(folder, ROOT)}")
        return f'kind = "movielens"\npath = {json.dumps(str(folder))}'
    archive = RUNS / "ml-1m.zip"
    try:
        say("data: downloading MovieLens-1M from GroupLens (6 MB)")
        with urllib.request.urlopen(GROUPLENS, timeout=20) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        with zipfile.ZipFile(archive) as opened:
            opened.testzip()
        return f'kind = "movielens"\npath = {json.dumps(str(archive))}'
    except (OSError, zipfile.BadZipFile) as error:
        say(f"data: GroupLens cannot be reached ({error}); using the simulator instead")
        return 'kind = "simulated"\nusers = 3000\nitems = 2000\nevents = 300000\nseed = 1'


def train(name: str, model: str, source: str) -> None:
    """Write a run's TOML and train it."""
    minutes = float(os.environ.get("DEMO_MINUTES", "4"))
    text = f"""name = "{name}"
out = {json.dumps(str(RUNS))}

[data]
{source}

[split]
kind = "leave-last-out"

[model]
{model}

[train]
max_minutes = {minutes}
batch_size = 32
learning_rate = 2e-3
warmup_steps = 200
decay_epochs = 8
windows = "all"
validate_every = 2
validation_targets = 2000
"""
    config = RUNS / f"{name}.toml"
    config.write_text(text, encoding="utf-8")
    say(f"training {name}" + (f" (at most {minutes:g} minutes)" if name == DEEP else ""))
    millirec("train", "-c", str(config), "--json", quiet=True)


def show_table() -> None:
    """Every model on the same test part: last event of each user, whole catalogue ranked."""
    say("test part: each user's last event, all items ranked, items already seen left out")
    print(f"{'model':16} {'NDCG@10':>18} {'HR@10':>18} {'coverage@10':>12} {'seconds':>8}")
    for name in MODELS:
        metrics = json.loads((RUNS / name / "metrics.json").read_text())
        figures = metrics["test"]["figures"]
        cells = [f"{f['value']:.4f} ±{(f['high'] - f['low']) / 2:.4f}" for f in (figures["ndcg@10"], figures["hr@10"])]
        coverage = figures["coverage@10"]["value"]
        print(f"{name:16} {cells[0]:>18} {cells[1]:>18} {coverage:12.3f} {metrics['seconds']:8.1f}")


def serve(bundle: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the server on a free port of the loopback; returns when it is ready."""
    say("starting the server")
    command = [
        sys.executable,
        "-m",
        "millirec",
        "serve",
        str(bundle),
        "--port",
        os.environ.get("DEMO_PORT", "0"),
    ]
    server = subprocess.Popen([*command, "--data", str(RUNS / "state")], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        print(line.rstrip())
        if "http://" in line:
            address = "http://" + line.split("http://", 1)[1].split()[0].rstrip("/")
            wait_until_ready(address)
            return server, address
    raise SystemExit("demo: the server did not start")


def wait_until_ready(address: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("demo: the server is not ready after 30 seconds")


def show_live_answers(address: str, bundle: Path) -> None:
    """A visitor unknown to the model acts, and each next answer reflects the event before it."""
    from millirec.data.catalog import Catalog, Text  # there once `make` has set up

    catalog = Catalog.load(bundle)
    told = catalog.features.get("title")
    ids = catalog.vocabulary.ids
    titles = dict(zip(ids, told.texts[1:] if isinstance(told, Text) else (), strict=False))
    print("\nA new visitor. Nothing is known, so the answer is what everybody likes:")
    show(post(address, "/recommend", {"user": "visitor", "k": 5}), titles)
    for item in a_taste(ids, titles):
        post(address, "/feedback", {"event": "interaction", "user": "visitor", "item": item, "type": "view"})
        print(f"\nThe visitor watches {titles.get(item) or item}. The next answer:")
        show(post(address, "/recommend", {"user": "visitor", "k": 5}), titles)


def a_taste(ids: tuple[str, ...], titles: dict[str, str]) -> list[str]:
    """Three science-fiction films where the data is MovieLens, else three items."""
    by_title = {title: item for item, title in titles.items()}
    films = ("Alien (1979)", "Terminator, The (1984)", "Blade Runner (1982)")
    return [by_title[film] for film in films if film in by_title] or list(ids[100:103])


def show(answer: dict[str, Any], titles: dict[str, str]) -> None:
    for place, entry in enumerate(answer["items"], start=1):
        print(f"  {place}. {titles.get(entry['item']) or entry['item']}")
    print(f"     ({answer['took_ms']:.2f} ms in the server)")


def post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def stop(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()


def millirec(*arguments: str, quiet: bool = False) -> None:
    """Run a command of the project as a person would."""
    command = [sys.executable, "-m", "millirec", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None, check=False)
    if done.returncode:
        raise SystemExit(f"demo: `millirec {' '.join(arguments)}` failed with exit code {done.returncode}")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
