"""Runs inside the peer's own environment, without millirec: train a RecTools model on an exported split, and recommend.

    python -P rectools_worker.py SPLIT.npz SETTINGS.json OUT

Writes OUT.npz (the list of each asked user, with scores) and OUT.json (seconds, epochs, peak memory, versions).
"""

import copy
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models.nn.transformers.hstu import HSTUModel
from rectools.models.nn.transformers.sasrec import SASRecModel
from rectools.models.nn.transformers.utils import leave_one_out_mask

MODELS = {"sasrec": SASRecModel, "hstu": HSTUModel}
K = 100


class Course(Callback):
    """Times the epochs, watches NDCG@10 on the validation events, keeps the best weights, and stops in time."""

    def __init__(self, minutes: float, patience: int) -> None:
        self.minutes, self.patience = minutes, patience
        self.epochs: list[float] = []
        self.history: list[tuple[float, float]] = []  # seconds since the start, NDCG@10
        self.gains: list[torch.Tensor] = []
        self.batches, self.best, self.stale, self.weights = 0, -1.0, 0, None

    def on_fit_start(self, *_: Any) -> None:
        self.began = time.monotonic()

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epoch_began, self.batches = time.monotonic(), 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches += 1
        if self.batches == trainer.num_training_batches:
            self.epochs.append(time.monotonic() - self.epoch_began)
        elif time.monotonic() - self.began > 60 * self.minutes:
            trainer.should_stop = True

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        batch = rest[1]  # after the outputs
        if trainer.sanity_checking:
            return
        model = pl_module.torch_model
        items = model.item_model.get_all_embeddings()
        scores = model.encode_sessions(batch, items)[:, -1, :] @ items.T
        target = batch["y"][:, -1:]
        own = scores.gather(1, target)
        scores.scatter_(1, batch["x"], -torch.inf)  # the newest events; enough to choose an epoch by
        scores[:, 0] = -torch.inf
        ranks = (scores >= own).sum(1).clamp(min=1)
        self.gains.append(torch.where(ranks <= 10, 1 / torch.log2(ranks + 1.0), 0.0))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not self.gains:
            return
        ndcg = torch.cat(self.gains).mean().item()
        self.gains = []
        seconds = time.monotonic() - self.began
        self.history.append((seconds, ndcg))
        print(f"{seconds:7.0f} s  epoch {len(self.epochs)}  ndcg@10 {ndcg:.4f}", flush=True)
        if ndcg > self.best:
            self.best, self.stale = ndcg, 0
            self.weights = copy.deepcopy(pl_module.torch_model.state_dict())
        else:
            self.stale += 1
        if self.stale >= self.patience or seconds > 60 * self.minutes:
            trainer.should_stop = True


def main(split: Path, settings_path: Path, out: Path) -> None:
    settings = json.loads(settings_path.read_text())
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"])
    data = dict(np.load(split))
    model = _model(settings, np.unique(data["users"][data["validating"]]).tolist())
    began = time.monotonic()
    model.fit(Dataset.construct(_frame(data, data["training"] | data["validating"])))
    fitted = time.monotonic()
    course = next(c for c in model.fit_trainer.callbacks if isinstance(c, Course))
    if course.weights is not None:
        model.lightning_model.torch_model.load_state_dict(course.weights)
    n_batches = model.fit_trainer.num_training_batches
    unfinished = (fitted - course.epoch_began) / max(course.batches, 1) * n_batches
    items, scores = _recommend(model, data, with_time=settings["model"] == "hstu")
    np.savez(out.with_suffix(".npz"), items=items, scores=scores)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "training_seconds": fitted - began,
        "epochs": len(course.epochs),
        "epoch_seconds": float(np.median(course.epochs)) if course.epochs else None,
        "epoch_seconds_extrapolated": None if course.epochs else unfinished,
        "validation": course.history,
        "best_validation_ndcg@10": course.best,
        "recommend_seconds": time.monotonic() - fitted,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_mib": used.ru_maxrss / 1024,
        "packages": {name: version(name) for name in ("rectools", "torch", "numpy", "pytorch-lightning")},
    }
    out.with_suffix(".json").write_text(json.dumps(figures, indent=1))


def _model(settings: dict[str, Any], validating: list[int]) -> Any:
    def trainer() -> Trainer:
        return Trainer(
            max_epochs=settings["epochs"],
            min_epochs=0,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            check_val_every_n_epoch=settings["validate_every"],
            num_sanity_val_steps=0,
            callbacks=[Course(settings["minutes"], settings["patience"])],
        )

    more = {"relative_time_attention": True, "relative_pos_attention": True} if settings["model"] == "hstu" else {}
    return MODELS[settings["model"]](
        **settings["arguments"],
        **more,
        epochs=settings["epochs"],
        get_trainer_func=trainer,
        get_val_mask_func=leave_one_out_mask,
        get_val_mask_func_kwargs={"val_users": validating},
        recommend_torch_device="cpu",
    )


def _frame(data: dict[str, np.ndarray], which: np.ndarray) -> pd.DataFrame:
    """Events in the order of the split: users one after the other, each in time order, ties in file order."""
    return pd.DataFrame(
        {
            Columns.User: data["users"][which],
            Columns.Item: data["items"][which],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(data["times"][which], unit="ms"),
        }
    )


def _recommend(model: Any, data: dict[str, np.ndarray], *, with_time: bool) -> tuple[np.ndarray, np.ndarray]:
    """The best K items (t, K) of each asked user, seen items left out, and their scores; 0 and -inf where shorter."""
    asked = data["asked"]
    context = None
    if with_time:
        moments = pd.to_datetime(data["asked_times"], unit="ms")
        context = pd.DataFrame({Columns.User: asked, Columns.Datetime: moments, Columns.Weight: 1.0})
    history = Dataset.construct(_frame(data, data["history"]))
    found = model.recommend(asked, history, K, filter_viewed=True, on_unsupported_targets="ignore", context=context)
    items, scores = np.zeros((len(asked), K), np.int32), np.full((len(asked), K), -np.inf)
    rows = pd.Index(asked).get_indexer(found[Columns.User])
    places = found[Columns.Rank].to_numpy() - 1
    items[rows, places], scores[rows, places] = found[Columns.Item], found[Columns.Score]
    return items, scores


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
