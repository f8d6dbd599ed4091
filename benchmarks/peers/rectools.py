"""RecTools' SASRec and HSTU beside ours: the same file, split, machine, threads, rank rule and metrics.

    python -m benchmarks.peers.rectools --set ml1m --minutes 60                    both models, CPU, two threads
    python -m benchmarks.peers.rectools --set ml1m --only sasrec --epochs-only     seconds an epoch, ours beside
    python -m benchmarks.peers.rectools --set ml100k --minutes 1 --threads 1       a look

RecTools forces an older NumPy, so it gets an environment of its own under .peers/, made on the first run. Our
split is written to a file and RecTools trains on its training events; it chooses the epoch by NDCG@10 on the
validation events, as we do, and gets the allocator that ours gets. Its lists are ranked by our rule: ties against the
model, an item that is not among the 100 of the list is last. One file a run in benchmarks/results/peers/.
Leave-last-out only.
"""

import argparse
import ctypes.util
import json
import os
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.quality.sets import ROOT, read_set, source
from benchmarks.quality.train import run_command
from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset
from millirec.data.sources import read
from millirec.data.split import LeaveLastOut, Targets, split, targets
from millirec.metrics.summary import summarise

RESULTS = ROOT / "benchmarks" / "results" / "peers"
HOME = ROOT / ".peers" / "rectools"
VERSIONS = ("torch==2.13.0", "rectools[torch]==0.19.0")
WORKER = Path(__file__).with_name("rectools_worker.py")
# Width 64, 2 blocks, length 200, batch 128, full softmax, the same for ours. With 512 sampled
# negatives a batch of RecTools took half a minute and 7.7 GiB (as if drawn for every place), so it runs in full.
ALIKE: dict[str, Any] = {"n_blocks": 2, "n_heads": 2, "n_factors": 64, "session_max_len": 200, "dropout_rate": 0.2}
ALIKE |= {"loss": "softmax", "batch_size": 128, "lr": 1e-3}
OURS = """
[model]
kind = "sasrec"
embedding_dim = 64
blocks = 2
heads = 2
feed_forward = 1
max_length = 200
[train]
batch_size = 128
epochs = 4
validate_every = 4
[train.loss]
"""
LOSSES = {"full-softmax": 'kind = "full-softmax"', "sampled-softmax": 'kind = "sampled-softmax"\nnegatives = 512'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="ml1m", help="a set of benchmarks/quality/specs with a leave-last-out split")
    parser.add_argument("--only", nargs="*", choices=["sasrec", "hstu"], default=["sasrec", "hstu"])
    parser.add_argument("--minutes", type=float, default=60.0, help="the end of a training at the latest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--epochs-only", action="store_true", help="three epochs of each and of ours, no quality")
    options = parser.parse_args()
    environment()
    RESULTS.mkdir(parents=True, exist_ok=True)
    dataset = split(read(source(read_set(options.set), "leave-last-out")), LeaveLastOut())
    if options.epochs_only:
        compare_epochs(dataset, options)
        return
    for name in options.only:
        settings = {"model": name, "epochs": 1000, "validate_every": 2, "patience": 10} | _limits(options)
        figures = measure(dataset, settings)
        _write(f"rectools-{name}-{options.set}-{options.seed}", options, settings, figures)


def environment() -> None:
    """The peer's own environment, made when it is missing; the CPU build of torch where the index offers it."""
    python = HOME / "bin" / "python"
    if python.exists() and subprocess.run([python, "-c", "import rectools, torch"], check=False).returncode == 0:
        return
    print(f"making {HOME.relative_to(ROOT)}", flush=True)
    venv.create(HOME, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-q", "--only-binary=:all:"]
    torch, library = VERSIONS
    if subprocess.run([*install, f"{torch}+cpu", library], check=False).returncode:
        subprocess.run([*install, torch, library], check=True)


def measure(dataset: Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the peer on our split; its figures by our rule."""
    asked = targets(dataset, TEST)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(dataset, asked, folder / "split.npz")
        (folder / "settings.json").write_text(json.dumps(settings | {"arguments": ALIKE}))
        subprocess.run(
            [HOME / "bin" / "python", "-P", WORKER, folder / "split.npz", folder / "settings.json", folder / "out"],
            check=True,
            env=os.environ | _surroundings(settings["threads"]),
        )
        figures: dict[str, Any] = json.loads((folder / "out.json").read_text())
        with np.load(folder / "out.npz") as lists:
            items, scores = lists["items"], lists["scores"]
    wanted = dataset.sequences.items[asked.places]
    ranks = ranks_in_lists(items, scores, wanted, len(dataset.items))
    found = summarise(ranks, items, dataset.popularity, dataset.sequences.users[asked.places])
    return figures | {"n_targets": len(asked), "figures": msgspec.to_builtins(found)}


def _surroundings(threads: int) -> dict[str, str]:
    """As many threads as ours gets, and the allocator that `millirec train` takes where the system has it."""
    found = {f"{kind}_NUM_THREADS": str(threads) for kind in ("OMP", "MKL", "OPENBLAS")}
    allocator = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    return found | ({"LD_PRELOAD": allocator} if allocator else {})


def export(dataset: Dataset, asked: Targets, path: Path) -> None:
    """The split as arrays, events by user in time order, and who is asked when, of whom what is known (masks (n,))."""
    seq = dataset.sequences
    users = seq.users[asked.places]
    if len(np.unique(users)) < len(users):
        raise SystemExit("several targets a user: RecTools asks once a user -> use a leave-last-out split")
    np.savez(
        path,
        users=seq.users,
        items=seq.items,
        times=seq.times,
        training=seq.roles == TRAIN,
        validating=seq.roles == VALIDATION,
        history=seq.roles != TEST,
        asked=users,
        asked_times=seq.times[asked.places],
    )


def ranks_in_lists(
    items: NDArray[np.int32], scores: NDArray[np.float64], wanted: NDArray[np.int32], n_items: int
) -> NDArray[np.int64]:
    """Where each wanted item stands on its list (t, K), behind all that score the same; `n_items` when it does not."""
    hit = items == wanted[:, None]
    own = np.where(hit, scores, np.inf).min(axis=1)
    ranks = ((scores >= own[:, None]) & (items > 0)).sum(axis=1)
    # A tie that reaches the end of a full list may run on beyond it.
    tied = (scores[:, -1] == own) & ((scores == own[:, None]).sum(axis=1) > 1)
    return np.where(hit.any(axis=1) & ~tied, ranks, n_items).astype(np.int64)


def compare_epochs(dataset: Dataset, options: argparse.Namespace) -> None:
    """Seconds an epoch, theirs and ours in turns, like with like; validation and start-up left out."""
    found: dict[str, Any] = {}
    for name in options.only:
        settings = {"model": name, "epochs": 3, "validate_every": 1000, "patience": 10} | _limits(options)
        found[f"rectools-{name}"] = measure(dataset, settings)["epoch_seconds"]
    for loss, text in LOSSES.items():
        machine = f"[machine]\nseed = {options.seed}\nthreads = {options.threads}\n"
        where = source(read_set(options.set), "leave-last-out"), LeaveLastOut()
        history, _ = run_command(f"epochs-{options.set}", *where, f"{OURS}{text}\n{machine}")
        seconds = [entry["seconds"] for entry in history]
        found[f"millirec-sasrec, {loss}"] = float(np.median(np.diff(seconds[:-1])))  # the last one validates
    print({name: value and round(value, 2) for name, value in found.items()}, flush=True)
    _write(f"epochs-{options.set}", options, {"ours": OURS, "losses": LOSSES}, {"epoch_seconds": found})


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    return {"minutes": options.minutes, "threads": options.threads, "seed": options.seed}


def _write(label: str, options: argparse.Namespace, settings: dict[str, Any], figures: dict[str, Any]) -> None:
    titles = {"sasrec": "RecTools' SASRec", "hstu": "RecTools' HSTU with relative time"}
    title = titles.get(settings.get("model", ""), "seconds an epoch")
    head = {"name": label, "title": title, "set": options.set, "seed": options.seed, "threads": options.threads}
    protocol = "leave-last-out, whole catalogue ranked, seen items left out, ties against the model"
    result = head | {"protocol": protocol, "settings": settings | {"arguments": ALIKE}} | figures
    result["machine"] = describe()
    (RESULTS / f"{label}.json").write_text(json.dumps(result, indent=1) + "\n")
    shown = {name: figures["figures"][name]["value"] for name in ("ndcg@10", "hr@10")} if "figures" in figures else {}
    print(label, shown, f"{figures.get('training_seconds', 0):.0f} s", flush=True)


if __name__ == "__main__":
    main()
