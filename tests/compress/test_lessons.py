"""What teachers say of training events: the right vectors at the right places, each once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.compress.lessons import Panel, windows
from millirec.data.dataset import TRAIN, Dataset
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError
from millirec.data.split import LeaveLastOut, split
from millirec.models.base import Inputs
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.checkpoint import Checkpoint, Provenance
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.train.batches import TrainingSequences
from tests.logs import dataset_of
from tests.networks import N_ITEMS, network, small

CPU = torch.device("cpu")


def log(seed: int = 0, longest: int = 40) -> Dataset:
    """Histories of 1 to `longest` events at irregular times, split by leave-last-out."""
    rng = np.random.default_rng(seed)
    dataset = dataset_of([rng.integers(1, N_ITEMS + 1, n).tolist() for n in rng.integers(1, longest + 1, 30)], N_ITEMS)
    dataset.interactions.times[:] = np.cumsum(rng.integers(1, 10**7, len(dataset.interactions)))
    return split(dataset, LeaveLastOut())


def checkpoint(config: Any, dataset: Dataset) -> Checkpoint:
    told = Provenance(fingerprint=dataset.fingerprint, protocol=dataset.protocol, n_events=1, trained_until=1)
    return Checkpoint(config, network(config).state_dict(), dataset.items, dataset.popularity, told)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(2, 50), st.integers(1, 50), st.integers(1, 50))
def test_windows_ask_for_each_event_once_with_as_much_before_it_as_they_can(
    seed: int, length: int, first: int, stride: int
) -> None:
    first, stride = min(first, length), min(stride, length)
    sequences = TrainingSequences(log(seed), length)
    spans, fresh = windows(sequences, first, stride)
    asked = np.concatenate([np.arange(stop - new, stop) for (_, stop), new in zip(spans, fresh, strict=True)])
    users = np.searchsorted(sequences.stops, np.arange(len(sequences.items)), side="right")
    assert sorted(asked) == [i for i in range(1, len(users)) if users[i] == users[i - 1]]
    for (start, stop), new in zip(spans, fresh, strict=True):
        begin = sequences.starts[users[stop - 1]]
        assert begin <= start
        assert stop - start <= length + 1
        assert start == begin or stop - new - start > length - max(first, stride)
        assert new <= (first if start == begin and stop - new == begin + 1 else stride)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (small(LinearRecurrentConfig), 40),
        (small(GRU4RecConfig), 40),
        (small(BERT4RecConfig), 12),
    ],
)
def test_a_lesson_is_the_vector_that_the_teacher_answers_with(config: Any, length: int, tmp_path: Path) -> None:
    """From all events before the target, at the target's time, as in evaluation."""
    dataset = log()
    teacher = checkpoint(type(config)(**{**asdict(config), "max_length": length}), dataset)
    lessons = Panel([teacher], [1.0], 1.0).vectors(dataset, tmp_path, CPU)
    seq, model = dataset.sequences, teacher.network()
    for place in np.flatnonzero(seq.roles == TRAIN)[::9]:
        start = seq.offsets[seq.users[place]]
        if place == start:
            continue
        span = slice(max(start, place - length), place)
        batch = encode([seq.items[span]], [seq.times[span]], length, [int(seq.times[place])])
        with torch.inference_mode():
            want = model.user_vectors(Inputs.of(batch))[0]
        torch.testing.assert_close(
            torch.from_numpy(np.array(lessons.vectors[0][place], np.float32)), want, rtol=2e-3, atol=2e-3
        )


def asdict(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__struct_fields__}


def test_lists_hold_the_best_of_the_mixture(tmp_path: Path) -> None:
    dataset = log()
    teachers = [checkpoint(small(kind), dataset) for kind in (LinearRecurrentConfig, GRU4RecConfig)]
    panel = Panel(teachers, [0.75, 0.25], 2.0)
    whole, lists = panel.vectors(dataset, tmp_path, CPU), panel.lists(5, dataset, tmp_path, CPU)
    places = torch.from_numpy(np.flatnonzero(dataset.sequences.roles == TRAIN)[1:200:3])
    chances = 0.0
    for vectors, teacher, weight in zip(whole.vectors, teachers, (0.75, 0.25), strict=True):
        logits = vectors[places].astype(np.float64) @ teacher.network().item_vectors().detach().numpy()[1:].T / 2
        chances = chances + weight * np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    soft = lists.at(places)
    best = np.sort(chances, 1)[:, :-6:-1]
    np.testing.assert_allclose(soft.chances.numpy(), best / best.sum(1, keepdims=True), rtol=2e-3)
    found = np.take_along_axis(chances, soft.rows.numpy() - 1, 1)
    np.testing.assert_allclose(found, best, rtol=1e-5)
    out = torch.empty(len(places), N_ITEMS)
    whole.at(places).fill(slice(0, len(places)), out)
    np.testing.assert_allclose(out.numpy(), chances, rtol=1e-3, atol=1e-6)


def test_lessons_that_are_there_are_read_again(tmp_path: Path) -> None:
    dataset = log()
    panel = Panel([checkpoint(small(GRU4RecConfig), dataset)], [1.0], 1.0)
    for make in (panel.vectors, lambda *more: panel.lists(3, *more)):
        make(dataset, tmp_path, CPU)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
        make(dataset, tmp_path, CPU)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == before
    other = dataset.with_roles(np.zeros_like(dataset.roles), dataset.protocol)
    panel.vectors(other, tmp_path, CPU)
    assert len(list(tmp_path.rglob("vectors.npy"))) == 2


def test_a_teacher_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    dataset = log()
    teacher = checkpoint(small(GRU4RecConfig), dataset)
    teacher.parameters["item.weight"][3] = torch.nan
    with pytest.raises(ArtifactError, match="no numbers"):
        Panel([teacher], [1.0], 1.0).vectors(dataset, tmp_path / "lessons", CPU)
    assert not list((tmp_path / "lessons").glob("*"))
