"""Several models in one bundle: the sum of their scores, and who is left out of it when something goes wrong."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from millirec.bundle import Bundle, PackConfig, open_bundle, pack_ensemble
from millirec.cascade.query import Query, Ranking
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.event import Event
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.index import ExactIndex, FusedIndex, PQConfig
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import GRU4RecConfig, max_length
from millirec.models.fusion import ReciprocalRank, Stacked, fused
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.sasrec import SASRecConfig
from tests.bundles import untrained

SHARES = (0.5, 2.0, 1.5)
HISTORY = ("i3", "i50", "i7", "i12")


@pytest.fixture(scope="module")
def checkpoints() -> list[Checkpoint]:
    """Three models over the same 60 items: of other widths, other lengths, and one that carries a state."""
    return [
        untrained(),
        untrained(config=GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=3), seed=1),  # type: ignore[arg-type]
        untrained(config=LinearRecurrentConfig(embedding_dim=12, max_length=10), seed=2),  # type: ignore[arg-type]
    ]


@pytest.fixture(scope="module")
def several(checkpoints: list[Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pack_ensemble(checkpoints, SHARES, tmp_path_factory.mktemp("ensemble") / "b")


@pytest.fixture
def engine(several: Bundle) -> Iterator[Engine]:
    engine = Engine(several, StateStore.temporary())
    yield engine
    engine.close()


def own(checkpoint: Checkpoint, history: tuple[str, ...] = HISTORY) -> dict[str, float]:
    """What one network by itself says of the items that are not in a history, all of which happened just now."""
    network, rows = checkpoint.network(), checkpoint.catalog.vocabulary.rows(history)
    now = np.full(len(rows), 1_700_000_000_000)
    inputs = Inputs.of(encode([rows], [now], max_length(checkpoint.config), [int(now[0])]))
    with torch.inference_mode():
        found = network.item_vectors() @ network.user_vectors(inputs)[0]  # type: ignore[operator, union-attr]
    return {item: float(found[row]) for row, item in enumerate(checkpoint.catalog.vocabulary.ids, 1)}


def scores(ranking: Ranking) -> dict[str, float]:
    return dict(zip(ranking.items, ranking.scores, strict=True))


def test_scores_are_the_weighted_sum_of_those_of_each_alone(engine: Engine, checkpoints: list[Checkpoint]) -> None:
    found = engine.recommend(Query(items=HISTORY, k=60))
    each = [own(one) for one in checkpoints]
    want = {item: sum(share * alone[item] for share, alone in zip(SHARES, each, strict=True)) for item in found.items}
    assert len(found.items) == 56
    assert scores(found) == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert list(found.items) == sorted(want, key=lambda item: -found.scores[found.items.index(item)])
    assert (found.members, found.left_out) == (("sasrec", "gru4rec", "linear-recurrent"), None)


def test_stored_histories_and_batches_and_states_give_the_same(engine: Engine) -> None:
    """The third model goes on from a state; the answer is that of the history given in the call."""
    engine.submit([Event(user="ann", item=item, time=n) for n, item in enumerate(HISTORY[:3])]).result()
    engine.recommend(Query(user="ann", time=10))
    engine.submit([Event(user="ann", item=HISTORY[3], time=10)]).result()
    first, second, nobody = engine.recommend_many(
        [Query(user="ann", k=60, time=10), Query(items=("i9",), k=60), Query(user="bob", k=5)]
    )
    assert isinstance(first, Ranking)
    assert isinstance(second, Ranking)
    assert isinstance(nobody, Ranking)
    assert engine._loaded.members.all[2].carry is not None
    assert engine._loaded.members.all[2].carry.hits > 0
    assert scores(second) == pytest.approx(scores(engine.recommend(Query(items=("i9",), k=60))), abs=1e-4)
    assert nobody.source == "popular"
    assert len(first.items) == 56


def test_the_bundle_is_read_back_and_its_parts_share_arrays(
    several: Bundle, checkpoints: list[Checkpoint], tmp_path: Path
) -> None:
    found = open_bundle(several.folder)
    assert [member.share for member in found.manifest.members] == list(SHARES)
    assert (found.manifest.dim, found.max_length) == (16 + 8 + 12, 20)
    twins = pack_ensemble([checkpoints[0]] * 2, (1.0, 1.0), tmp_path / "twins")
    first, second = twins.parts
    assert (first.name, second.name) == ("sasrec", "sasrec-2")
    assert first.encoder.tensors.keys() == second.encoder.tensors.keys() != set()
    assert all(np.shares_memory(array, second.encoder.tensors[name]) for name, array in first.encoder.tensors.items())


def test_replicas_of_one_bundle_are_one_in_memory(several: Bundle) -> None:
    engines = [Engine(several, StateStore.temporary()) for _ in range(2)]
    first, second = (engine._loaded for engine in engines)
    assert first.shelf.index is second.shelf.index
    pairs = zip(first.bundle.parts, second.bundle.parts, strict=True)
    for one, other in pairs:
        assert one.encoder.tensors.keys() == other.encoder.tensors.keys() != set()
        assert all(np.shares_memory(array, other.encoder.tensors[name]) for name, array in one.encoder.tensors.items())
    for engine in engines:
        engine.close()


def graph_that_fails_beyond(row: int, dim: int) -> bytes:
    """A real encoder: it looks up one vector by the first item of a history, in a table of `row` rows."""
    nodes = [
        helper.make_node("Gather", ["items", "zero"], ["first"], axis=1),
        helper.make_node("Gather", ["table", "first"], ["user_vectors"], axis=0),
    ]
    inputs = [helper.make_tensor_value_info("items", TensorProto.INT32, ["b", "l"])]
    outputs = [helper.make_tensor_value_info("user_vectors", TensorProto.FLOAT, ["b", dim])]
    table = np.ones((row, dim), np.float32)
    held = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel()),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def with_graph(bundle: Bundle, place: int, graph: bytes) -> Bundle:
    """The bundle with another encoder for one member."""
    prefix = f"{place}/encoder"
    kept = {name: array for name, array in bundle.tensors.items() if not name.startswith(prefix)}
    return replace(bundle, tensors=kept | {prefix: np.frombuffer(graph, np.uint8)})


def test_a_member_that_fails_is_left_out_and_named(
    several: Bundle, checkpoints: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(with_graph(several, 1, graph_that_fails_beyond(20, 8)), StateStore.temporary())
    assert engine.recommend(Query(items=("i5",))).left_out is None
    first, third = (own(checkpoints[at], HISTORY[1:]) for at in (0, 2))  # i50 has no row in that table
    for deadline in (None, 60_000.0):
        found = engine.recommend(Query(items=HISTORY[1:], k=60, deadline_ms=deadline))
        assert (found.members, found.left_out) == (("sasrec", "linear-recurrent"), {"gru4rec": "failed"})
        assert len(found.items) == 57
        want = {item: SHARES[0] * first[item] + SHARES[2] * third[item] for item in found.items}
        assert scores(found) == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert caplog.text.count("gru4rec is left out") == 1
    engine.close()


def test_a_fusion_goes_on_without_one(several: Bundle, checkpoints: list[Checkpoint]) -> None:
    items = checkpoints[0].catalog.vocabulary.ids
    each = [[share * own(one, HISTORY[1:])[i] for i in items] for share, one in zip(SHARES, checkpoints, strict=True)]
    first, second, third = (np.array(one, np.float32) for one in each)
    broken = with_graph(several, 1, graph_that_fails_beyond(20, 8))
    assert isinstance(several.index, ExactIndex)
    for fusion in (ReciprocalRank(), Stacked(ranks=(0.5, 0.1, 0.3))):
        index = FusedIndex(several.index, (16, 8, 12), fusion)
        for bundle, left in ((several, [first, second, third]), (broken, [first, None, third])):
            engine = Engine(replace(bundle, index=index), StateStore.temporary())
            found = engine.recommend(Query(items=HISTORY[1:], k=60))
            want = dict(zip(items, fused(fusion, left).tolist(), strict=True))
            assert scores(found) == pytest.approx({item: want[item] for item in found.items}, rel=1e-3, abs=1e-3)
            assert list(found.scores) == sorted(found.scores, reverse=True)
            assert len(found.items) == 57
            near, whole = engine.similar("i5", 59), index.vectors(np.arange(1, 61, dtype=np.int32))
            units = whole / np.linalg.norm(whole, axis=1, keepdims=True)
            cosines = {item: float(units[4] @ units[int(item[1:]) - 1]) for item in near.items}
            assert scores(near) == pytest.approx(cosines, abs=1e-4)
            engine.close()
        assert (found.members, found.left_out) == (("sasrec", "linear-recurrent"), {"gru4rec": "failed"})


def test_fusions_that_do_not_fit_are_refused(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    for fusion, config, words in (
        (Stacked(ranks=(0.5,)), PackConfig(), "1 weights of ranks for 3 models"),
        (ReciprocalRank(), PackConfig(index=PQConfig()), "needs all scores"),
    ):
        with pytest.raises(ConfigError, match=words):
            pack_ensemble(checkpoints, SHARES, tmp_path / "b", config, fusion=fusion)
    assert not (tmp_path / "b").exists()


def test_an_only_model_that_fails_is_no_silent_answer(bundle: Bundle) -> None:
    kept = {name: array for name, array in bundle.tensors.items() if not name.startswith("encoder")}
    graph = np.frombuffer(graph_that_fails_beyond(20, 16), np.uint8)
    engine = Engine(replace(bundle, tensors=kept | {"encoder": graph}), StateStore.temporary())
    assert engine.recommend(Query(items=("i5",))).members is None
    for deadline in (None, 60_000.0):
        with pytest.raises(Exception, match="Gather"):
            engine.recommend(Query(items=("i50",), deadline_ms=deadline))
    engine.close()


@pytest.mark.parametrize("fusion", [None, ReciprocalRank(), Stacked(ranks=(0.5, 0.2))])
def test_a_member_that_is_late_is_left_out_and_named(
    fusion: ReciprocalRank | Stacked | None, checkpoints: list[Checkpoint], tmp_path: Path
) -> None:
    """The slow one is a real network; there is a quarter of the time that both take for such a batch."""
    slow = untrained(config=SASRecConfig(embedding_dim=256, blocks=6, heads=2, max_length=200), seed=3)
    bundle = pack_ensemble([checkpoints[1], slow], (1.0, 1.0), tmp_path / "b", fusion=fusion)
    engine = Engine(bundle, StateStore.temporary())
    history = tuple(f"i{n % 60 + 1}" for n in range(200))
    whole = engine.recommend(Query(items=history, keep_seen=True))
    assert (whole.members, whole.left_out) == (("gru4rec", "sasrec"), None)
    began = perf_counter()
    engine.recommend_many([Query(items=history, keep_seen=True)] * 32)
    quarter = 250 * (perf_counter() - began)
    hurried = [Query(items=history, keep_seen=True, deadline_ms=quarter)] * 32
    met = [engine.recommend_many(hurried)[0] for _ in range(3)]
    assert all(isinstance(one, Ranking) for one in met)
    alone = own(checkpoints[1], history)
    if fusion is not None:
        left = fused(fusion, [np.array(list(alone.values()), np.float32), None])
        alone = dict(zip(alone, left.tolist(), strict=True))
    for found in met:
        assert isinstance(found, Ranking)
        assert found.left_out is not None
        assert found.left_out["sasrec"] == "late"
        if found.members:
            assert scores(found) == pytest.approx({item: alone[item] for item in found.items}, rel=1e-4, abs=1e-4)
        else:
            assert found.stage == "popular"
    assert any(isinstance(found, Ranking) and found.members for found in met)
    again = engine.recommend(Query(items=history, keep_seen=True))  # who has time waits
    assert again.members == ("gru4rec", "sasrec")
    assert scores(again) == pytest.approx(scores(whole), abs=1e-4)
    engine.close()


def test_many_threads_ask_at_once(engine: Engine) -> None:
    expected = scores(engine.recommend(Query(items=HISTORY, k=60)))
    wrong: list[object] = []

    def work() -> None:
        for n in range(20):
            deadline = None if n % 2 else 60_000.0
            found = engine.recommend(Query(items=HISTORY, k=60, deadline_ms=deadline))
            if found.left_out is None and scores(found) != pytest.approx(expected, abs=1e-4):
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_members_that_do_not_belong_together_are_refused(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    other = untrained(seed=4)
    strange = replace(other, catalog=Catalog(Vocabulary([f"x{n}" for n in range(60)])))
    elsewhere = replace(other, provenance=replace_fingerprint(other))
    first = checkpoints[0]
    for members, shares, error, words in (
        ([first], (1.0,), ConfigError, "ensemble of 1"),
        ([first, other], (1.0,), ConfigError, "1 weights for 2"),
        ([first, other], (1.0, 0.0), ConfigError, "above 0"),
        ([first, other], (1.0, float("nan")), ConfigError, "above 0"),
        ([first, strange], (1.0, 1.0), ArtifactError, "other items"),
        ([first, elsewhere], (1.0, 1.0), ArtifactError, "other data"),
    ):
        with pytest.raises(error, match=words):
            pack_ensemble(members, shares, tmp_path / "b", PackConfig())
    assert not (tmp_path / "b").exists()


def replace_fingerprint(checkpoint: Checkpoint) -> object:
    import msgspec

    return msgspec.structs.replace(checkpoint.provenance, fingerprint="other")
