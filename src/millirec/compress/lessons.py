"""Lessons: what teachers answer to every training event, computed once and read from disk in every epoch."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.data.dataset import Dataset
from millirec.data.errors import ArtifactError
from millirec.data.folder import new_folder, settle
from millirec.models.base import Inputs, Masked, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.train.batches import Spans, TrainingSequences
from millirec.train.losses.soft import Listed, SoftTarget, Spoken, Teacher

_CELLS = 1 << 14  # places in the padded histories of a batch
_SCORES = 1 << 23  # chances in work at a time


class Lessons(Protocol):
    """The soft targets of training events."""

    def at(self, places: Tensor) -> SoftTarget:
        """Of the events at `places` int64 (N,) in `dataset.sequences`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Teachers of one vocabulary, and how they are mixed: `weights` sum up to 1. `temperature` divides their logits."""

    teachers: Sequence[Checkpoint]
    weights: Sequence[float]
    temperature: float

    def vectors(self, dataset: Dataset, folder: Path, device: torch.device) -> "Vectors":
        """Lessons over the whole catalogue: the vectors of each teacher are kept in `folder` in 16 bits."""
        kept, tables = [], []
        for teacher in self.teachers:
            kept.append(np.load(_vectors_of(teacher, dataset, folder, device) / "vectors.npy", mmap_mode="r"))
            network = teacher.network().to(device)
            assert isinstance(network, SequenceModel)  # noqa: S101
            with torch.inference_mode():
                items = network.item_vectors()[1:].float() / self.temperature
            tables.append(items.clone())  # out of inference mode, to be used where gradients flow
        return Vectors(kept, tables, self.weights)

    def lists(self, top: int, dataset: Dataset, folder: Path, device: torch.device) -> "Lists":
        """Lessons of the `top` best items of each event, kept in `folder`; what others would have is shared out."""
        digest = hashlib.sha256(f"{top} {self.temperature} {list(self.weights)}".encode())
        for teacher in self.teachers:
            digest.update(_name(teacher, dataset).encode())
        own = folder / f"lists-{digest.hexdigest()[:16]}"
        settle(own)
        if not own.exists():
            whole = self.vectors(dataset, folder, device)
            with new_folder(own) as new:
                _write_lists(whole, dataset, top, new, device)
        return Lists(*(np.load(own / name, mmap_mode="r") for name in ("rows.npy", "chances.npy")))


class Vectors(NamedTuple):
    """`vectors`: of each teacher, float16 (n, d), by place. `items`: its vectors of rows 1.., divided by T."""

    vectors: Sequence[NDArray[np.float16]]
    items: Sequence[Tensor]
    weights: Sequence[float]

    def at(self, places: Tensor) -> SoftTarget:
        """As `Lessons.at`."""
        which = places.cpu().numpy()
        parts = zip(self.vectors, self.items, self.weights, strict=True)
        return Spoken([Teacher(torch.from_numpy(v[which]).to(i.device), i, w) for v, i, w in parts])


class Lists(NamedTuple):
    """`rows` int32 (n, K) and `chances` float16 (n, K) of the best items, by place."""

    rows: NDArray[np.int32]
    chances: NDArray[np.float16]

    def at(self, places: Tensor) -> Listed:
        """As `Lessons.at`."""
        which = places.cpu().numpy()
        chances = torch.from_numpy(self.chances[which]).to(places.device).float()
        rows = torch.from_numpy(self.rows[which]).to(places.device).long()
        return Listed(rows, chances / chances.sum(1, keepdim=True))


def _name(teacher: Checkpoint, dataset: Dataset) -> str:
    """A hash of all that decides its vectors."""
    digest = hashlib.sha256(f"{teacher.content_hash} {dataset.split_fingerprint}".encode())
    return f"vectors-{digest.hexdigest()[:16]}"


def _vectors_of(teacher: Checkpoint, dataset: Dataset, folder: Path, device: torch.device) -> Path:
    """The folder with a teacher's vectors, made if it is not there."""
    own = folder / _name(teacher, dataset)
    settle(own)
    if own.exists():
        return own
    network = teacher.network().to(device)
    assert isinstance(network, SequenceModel)  # noqa: S101
    width, n = network.item_vectors().shape[1], len(dataset.sequences.items)
    with new_folder(own) as new:
        out = np.lib.format.open_memmap(new / "vectors.npy", mode="w+", dtype=np.float16, shape=(n, width))
        for places, vectors in _heard(network, dataset, max_length(teacher.config), device):
            half = vectors.half()
            if not torch.isfinite(half).all():
                raise ArtifactError(
                    f"teacher {teacher.content_hash[:12]}: its vectors are no numbers that 16 bits can hold",
                    "leave it out, or train it again",
                )
            out[places] = half.cpu().numpy()
        out.flush()
    return own


def _heard(
    network: SequenceModel, dataset: Dataset, length: int, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Places of training events (m,) and the vectors (m, d) that are to find them; each event once.

    An event is found from the events before it, at the time at which it comes: all of them, or the newest `length`, or
    where one reading serves many events at least half as many.
    """
    sequences = TrainingSequences(dataset, length)
    alone = isinstance(network, Masked)  # only the vector behind the newest event knows nothing of later ones
    spans, fresh = windows(sequences, 1, 1) if alone else windows(sequences, length, max(1, length // 2))
    with torch.inference_mode():
        for which in _batches(spans):
            batch = sequences.batch(spans[which])
            inputs = Inputs.of(batch.inputs, device)
            ends = batch.inputs.lengths[:, None]
            steps = np.arange(batch.places.shape[1])[None, :]
            new = (steps >= ends - fresh[which, None]) & (steps < ends)
            mask = torch.from_numpy(new).to(device)
            yield batch.places[new], network.user_vectors(inputs) if alone else network.forward(inputs)[mask]


def windows(sequences: TrainingSequences, first: int, stride: int) -> tuple[Spans, NDArray[np.int64]]:
    """Windows over all training histories, and how many of the newest events of each no window before it asked for.

    The first window of a history asks for at most `first` events, each next one for `stride` more.
    """
    starts, stops = sequences.starts[sequences.users], sequences.stops[sequences.users]
    ends = np.minimum(starts + first + 1, stops)
    counts = 1 - (ends - stops) // stride  # rounded up
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts, stops, ends = (np.repeat(column, counts) for column in (starts, stops, ends))
    last = np.minimum(ends + number * stride, stops)
    fresh = np.where(number == 0, last - starts - 1, last - np.minimum(ends + (number - 1) * stride, stops))
    return np.stack([np.maximum(starts, last - 1 - sequences.max_length), last], 1), fresh


def _batches(spans: Spans) -> Iterator[NDArray[np.int64]]:
    """Windows of like length together."""
    lengths = spans[:, 1] - spans[:, 0]
    order = np.argsort(lengths, kind="stable")
    at = 0
    while at < len(order):
        ahead = lengths[order[at : at + 1024]]  # ascending: the last row of a batch is the widest
        size = max(1, int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), _CELLS)))
        yield order[at : at + size]
        at += size


def _write_lists(whole: Vectors, dataset: Dataset, top: int, folder: Path, device: torch.device) -> None:
    n, n_items = len(dataset.sequences.items), len(dataset.items)
    shape = (n, min(top, n_items))
    rows = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.int32, shape=shape)
    chances = np.lib.format.open_memmap(folder / "chances.npy", mode="w+", dtype=np.float16, shape=shape)
    asked = TrainingSequences(dataset, 1).places
    size = max(1, _SCORES // n_items)
    buffer = torch.empty(size, n_items, device=device)
    for at in range(0, len(asked), size):
        places = asked[at : at + size]
        out = buffer[: len(places)]
        whole.at(torch.from_numpy(places)).fill(slice(0, len(places)), out)
        best = out.topk(shape[1], dim=1)
        rows[places] = best.indices.int().cpu().numpy() + 1
        chances[places] = (best.values / best.values.sum(1, keepdim=True)).half().cpu().numpy()
    rows.flush()
    chances.flush()
