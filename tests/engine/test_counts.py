"""Counts beside a network: packed, verified, and served as a dense reading says."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millirec.bundle import Beside, Bundle, open_bundle, pack
from millirec.bundle.manifest import entry_of, sealed
from millirec.cascade.query import Query
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.event import Event
from millirec.data.lineage import Provenance
from millirec.data.tensors import load_tensors, save_tensors
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import EASEConfig, ItemKNNConfig, MarkovConfig, ModelConfig, VMISKNNConfig, build
from millirec.models.counts import Gain

GAINS = {
    MarkovConfig: Gain(weight=0.5, floor=0.05),
    ItemKNNConfig: Gain(weight=0.25, floor=0.01),
    VMISKNNConfig: Gain(weight=0.3, floor=0.1),
}


def baseline(network: Checkpoint, config: ModelConfig) -> Checkpoint:
    """Counted on a random log of the network's items."""
    rng, n = np.random.default_rng(5), len(network.catalog)
    users, items = np.repeat(np.arange(40, dtype=np.int32), 12), rng.integers(1, n + 1, 480).astype(np.int32)
    model = build(config, n)
    model.fit(torch.from_numpy(users), torch.from_numpy(items), torch.arange(480))
    return replace(network, config=config, parameters=dict(model.state_dict()))


@pytest.fixture(scope="module")
def beside(checkpoint: Checkpoint) -> list[Beside]:
    return [Beside(baseline(checkpoint, kind()), gain) for kind, gain in GAINS.items()]


@pytest.fixture(scope="module")
def packed(checkpoint: Checkpoint, beside: list[Beside], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pack(checkpoint, tmp_path_factory.mktemp("counts") / "bundle", beside=beside)


@pytest.fixture(scope="module")
def answering(packed: Bundle) -> Iterator[Engine]:
    engine = Engine(open_bundle(packed.folder), StateStore.temporary())
    yield engine
    engine.close()


def expected(network: Checkpoint, beside: list[Beside], rows: list[int]) -> np.ndarray:
    """Scores of the catalogue from dense tables: neither sparse rows nor the engine take part."""
    module = network.network()
    batch = Inputs.of(encode([np.array(rows, np.int32)], None, 20))
    with torch.inference_mode():
        scores = (module.user_vectors(batch) @ module.item_vectors().T)[0].numpy()
    for one in beside:
        model = one.checkpoint.network()
        if isinstance(one.checkpoint.config, VMISKNNConfig):
            near_sessions = Inputs.of(encode([np.array(rows, np.int32)], None, one.checkpoint.config.max_length))
            votes = model.scores(near_sessions)[0].numpy()
            scores = scores + one.gain.weight * np.log1p(votes / one.gain.floor)
            continue
        near = np.zeros((len(scores), len(scores)))
        weights = model.chances if isinstance(one.checkpoint.config, MarkovConfig) else model.similarities
        for item in range(1, len(scores)):
            np.add.at(near[item], model.rows[item].numpy(), weights[item].numpy())
        length = 1 if isinstance(one.checkpoint.config, MarkovConfig) else one.checkpoint.config.max_length
        votes = sum(near[row] for row in rows[-length:])
        scores = scores + one.gain.weight * np.log1p(votes / one.gain.floor)
    return scores


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(1, 60))
def test_answers_are_those_of_dense_tables(
    answering: Engine, checkpoint: Checkpoint, beside: list[Beside], rows: list[int], k: int
) -> None:
    answer = answering.recommend(Query(items=tuple(f"i{row}" for row in rows), k=k, keep_seen=True))
    scores = expected(checkpoint, beside, rows)
    np.testing.assert_allclose(answer.scores, np.sort(scores[1:])[::-1][:k], atol=2e-3)  # 16-bit weights
    np.testing.assert_allclose(answer.scores, [scores[int(item[1:])] for item in answer.items], atol=2e-3)
    own = answering.recommend(Query(items=tuple(f"i{row}" for row in rows), candidates=("i7", "i9")))
    assert dict(zip(own.items, own.scores, strict=True)) == pytest.approx({"i7": scores[7], "i9": scores[9]}, abs=2e-3)


def test_the_last_event_votes(answering: Engine, checkpoint: Checkpoint, beside: list[Beside]) -> None:
    for time, item in enumerate((7, 21)):
        answering.observe(Event(user="ann", item=f"i{item}", time=time))
        rows = [7, 21][: time + 1]
        answer = answering.recommend(Query(user="ann", k=60, keep_seen=True))
        np.testing.assert_allclose(answer.scores, np.sort(expected(checkpoint, beside, rows)[1:])[::-1], atol=2e-3)
    stage = next(stage for stage in answer.trace if stage.name == "counts")
    assert (stage.n_in, stage.n_out) == (2, np.count_nonzero(_votes(beside, [7, 21])))
    assert answering.recommend(Query(user="nobody")).source == "popular"


def _votes(beside: list[Beside], rows: list[int]) -> np.ndarray:
    total = np.zeros(61)
    for one in beside:
        found, votes = one.table.votes(np.array(rows, np.int32))
        total[found] += votes
    return total


def test_an_answer_under_a_deadline_has_them_too(answering: Engine) -> None:
    query = Query(items=("i7", "i21"), k=10)
    in_time = answering.recommend(Query(items=("i7", "i21"), k=10, deadline_ms=5_000))
    assert in_time.items == answering.recommend(query).items
    *_, (last, _) = answering.stream(query)
    assert last.items == in_time.items


def test_what_the_manifest_says(packed: Bundle, checkpoint: Checkpoint, tmp_path: Path) -> None:
    told = json.loads((packed.folder / "manifest.json").read_bytes())["counts"]
    assert [one["model"]["kind"] for one in told] == ["markov", "item-knn", "vmis-knn"]
    assert [(one["length"], one["gain"]["weight"]) for one in told] == [(1, 0.5), (10, 0.25), (10, 0.3)]
    plain = pack(checkpoint, tmp_path / "plain")
    assert "counts" not in json.loads((plain.folder / "manifest.json").read_bytes())
    assert plain.counts == ()
    assert plain.version != packed.version


def test_counts_that_do_not_fit_are_refused(packed: Bundle, tmp_path: Path) -> None:
    for name, change in (
        ("1/rows", lambda a: a + 100),
        ("1/stops", lambda a: a[:-1]),
        ("1/weights", lambda a: a[1:]),
        ("2/session_items", lambda a: a + 100),
        ("2/item_stops", lambda a: a[:-1]),
    ):
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        for path in packed.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        tensors = dict(load_tensors(folder / "tensors.safetensors"))
        tensors[f"counts/{name}"] = change(tensors[f"counts/{name}"])
        save_tensors(tensors, folder / "tensors.safetensors")
        manifest = json.loads((folder / "manifest.json").read_bytes())
        entry = entry_of(folder / "tensors.safetensors")
        manifest["files"]["tensors.safetensors"] = {"bytes": entry.bytes, "sha256": entry.sha256}
        (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
        with pytest.raises(ArtifactError, match=r"counts|sessions"):
            open_bundle(folder)


def test_what_cannot_stand_beside_is_refused(checkpoint: Checkpoint, beside: list[Beside], tmp_path: Path) -> None:
    gain = Gain(weight=1.0, floor=0.1)
    with pytest.raises(ConfigError, match="no votes of its own"):
        pack(checkpoint, tmp_path / "b", beside=[Beside(baseline(checkpoint, EASEConfig()), gain)])
    with pytest.raises(ConfigError, match="5 models beside a network"):
        pack(checkpoint, tmp_path / "b", beside=beside[:1] * 5)
    other = Provenance(fingerprint="other", protocol="none", n_events=0, trained_until=0)
    foreign = Beside(replace(beside[0].checkpoint, provenance=other), gain)
    with pytest.raises(ArtifactError, match="has learned from other data"):
        pack(checkpoint, tmp_path / "b", beside=[foreign])
    assert not (tmp_path / "b").exists()
