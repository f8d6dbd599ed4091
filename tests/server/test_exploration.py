"""A server that explores: request ids, propensities, and a log of impressions that outcomes can be joined to."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from millirec.data.event import Event
from millirec.data.features import split_rows
from millirec.data.features.config import CategoricalField
from millirec.data.features.rows import RandomRows
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.sources import ImpressionsConfig, read
from millirec.engine.impressions import impressions
from millirec.engine.state import StateStore, StoreSettings
from millirec.models.rankers.lr import LRConfig
from millirec.train.evaluate_ranker import evaluate_rows
from millirec.train.fit_ranker import RankerPlan, fit_ranker
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from tests.serving import Served, ask, event, served

CASCADE = '[[selectors]]\nkind = "softmax"\ntemperature = 0.3\npool = 20\nseed = 5\n'


@pytest.fixture(scope="module")
def exploring(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("exploring")
    (folder / "cascade.toml").write_text(CASCADE)
    options = ("--cascade", str(folder / "cascade.toml"), "--impressions")
    with served(bundle, folder, *options) as running:
        yield running


def test_the_same_request_id_gives_the_same_list_and_a_new_one_another(exploring: Served) -> None:
    with httpx.Client(base_url=exploring.url) as client:
        body = {"items": ["i1", "i2"], "k": 5, "explain": True}
        first = ask(client, "/recommend", body | {"request_id": "r-1"})
        again = ask(client, "/recommend", body | {"request_id": "r-1"})
        assert first["request_id"] == "r-1"
        assert first["items"] == again["items"]
        assert all(0 < item["propensity"] <= 1 for item in first["items"])
        free = [ask(client, "/recommend", body) for _ in range(8)]
        assert len({answer["request_id"] for answer in free}) == 8
        assert len({tuple(item["item"] for item in answer["items"]) for answer in free}) > 1
        assert "propensity" not in ask(client, "/recommend", {"items": ["i1"]})["items"][0]
        ranked = ask(client, "/rank", {"items": ["i1"], "candidates": ["i5", "i6", "x"], "k": 2, "explain": True})
        assert "propensity" not in ranked["items"][0]


def test_outcomes_are_joined_by_request_id(exploring: Served) -> None:
    with httpx.Client(base_url=exploring.url) as client:
        answer = ask(client, "/recommend", {"user": "joiner", "k": 4, "explain": True, "context": {"page": "home"}})
        clicked = answer["items"][2]
        context = {"request_id": answer["request_id"]}
        assert ask(client, "/feedback", event("joiner", clicked["item"], type="click", context=context))
        ranked = ask(client, "/rank", {"user": "joiner", "candidates": ["i5", "nope"], "request_id": "rank-1"})
        metrics = client.get("/metrics").text
    assert "millirec_impressions_total" in metrics
    assert exploring.stop() == 0
    shown = {one.request_id: one for one in impressions(exploring.data / "impressions")}
    with StateStore(exploring.data, StoreSettings(), read_only=True) as store:
        clicks = [record for _, record in store.records() if isinstance(record, Event) and record.context]
    assert len(clicks) == 1
    assert clicks[0].context
    met = shown[str(clicks[0].context["request_id"])]
    place = met.items.index(clicks[0].item)
    assert place == 2
    assert met.propensities[place] == pytest.approx(clicked["propensity"])
    assert (met.user, met.context, met.model) == ("joiner", {"page": "home"}, "tiny")
    assert len(met.items) == 4
    assert shown["rank-1"].items == tuple(item["item"] for item in ranked["items"])
    assert shown["rank-1"].scores[1] is None
    assert shown["rank-1"].propensities == (1.0, 1.0)


def test_a_ranker_learns_from_what_the_server_showed(bundle: Path, tmp_path: Path) -> None:
    """Real impressions and events become rows with places and propensities: even items are clicked, odd ones not."""
    (tmp_path / "cascade.toml").write_text(CASCADE)
    with (
        served(bundle, tmp_path, "--cascade", str(tmp_path / "cascade.toml"), "--impressions") as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
    ):
        for n in range(40):
            answer = ask(client, "/recommend", {"user": f"u{n % 5}", "k": 4, "context": {"page": "home"}})
            context = {"request_id": answer["request_id"]}
            for item in answer["items"]:
                if int(item["item"][1:]) % 2 == 0:
                    ask(client, "/feedback", event(f"u{n % 5}", item["item"], type="click", context=context))
        tomorrow = 1000 * (int(time.time()) + 2 * 86_400)
        ask(client, "/feedback", event("u1", "i1", type="view", timestamp=tomorrow))
        assert running.stop() == 0
    dataset = read(ImpressionsConfig(path=str(running.data), actions=("click",)))
    label = LabelConfig(positive_above=0)
    dataset = split_rows(dataset, labels_of(dataset, label), RandomRows(validation=0.2, test=0.2))
    plan = RankerPlan(
        label=label,
        features=(
            CategoricalField(name="item", source="item"),
            CategoricalField(name="place", source="context.position", fixed=1),
        ),
        ranker=LRConfig(),
        train=RankTrainConfig(epochs=40, learning_rate=0.1, patience=40, propensities="context.propensity"),
        machine=Machine(threads=1),
    )
    checkpoint, rows = fit_ranker(dataset, plan, Silent())
    assert len(rows) == 160
    assert set(rows.context["position"]) == {1, 2, 3, 4}
    assert set(rows.context["page"]) == {"home"}
    assert rows.context["propensity"].min() < 0.5
    even = [int(dataset.items.vocabulary.id(int(row))[1:]) % 2 == 0 for row in dataset.interactions.items[rows.places]]
    assert rows.labels.tolist() == even
    assert evaluate_rows(checkpoint, rows, "p").figures["auc"].value > 0.9


def test_a_bandit_learns_from_what_all_workers_and_the_time_before_have_seen(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "cascade.toml").write_text('filters = []\nselectors = [{ kind = "thompson", beta = 9, slots = 1 }]\n')
    options = ("--cascade", str(tmp_path / "cascade.toml"), "--workers", "2", "--impressions")
    body = {"include": ["i1", "i2", "i3"], "k": 1, "explain": True, "request_id": "r"}
    with served(bundle, tmp_path, *options) as running:
        for n in range(30):  # a connection of its own each time, so that both workers answer
            with httpx.Client(base_url=running.url) as client:
                told = [event(f"u{n}", item, type="impression") for item in ("i1", "i2", "i3")]
                ask(client, "/feedback", [*told, event(f"u{n}", "i2", type="click")])
        met: dict[str, list[dict]] = {}
        while len(met) < 2:
            with httpx.Client(base_url=running.url) as client:
                answer = client.post("/recommend", json=body)
                met[answer.headers["x-worker"]] = answer.json()["items"]
        first, second = met.values()
        assert first == second
        assert (first[0]["item"], first[0]["propensity"] > 0.99) == ("i2", True)
        assert running.stop() == 0
    shown = [one.propensities for one in impressions(running.data / "impressions") if one.request_id == "r"]
    assert set(shown) == {(first[0]["propensity"],)}
    with served(bundle, tmp_path, *options) as again, httpx.Client(base_url=again.url) as client:
        assert ask(client, "/recommend", body)["items"] == first


def test_sources_asked_together_are_told_apart(bundle: Path, tmp_path: Path, client: httpx.Client) -> None:
    kinds = '{kind="own"},{kind="sequence",n=20},{kind="popular",n=5}'
    (tmp_path / "cascade.toml").write_text(
        f'gather="together"\nsources=[{kinds}]\n' + 'selectors=[{kind="places",least={own=1}}]\n'
    )
    with (
        served(bundle, tmp_path, "--cascade", str(tmp_path / "cascade.toml"), "--workers", "2") as running,
        httpx.Client(base_url=running.url) as asking,
    ):
        answer = ask(
            asking, "/recommend", {"items": ["i1"], "own": ["i9", "?"], "k": 25, "explain": True, "trace": True}
        )
    found = {item["item"]: item["source"] for item in answer["items"]}
    assert found["i9"] == "own"
    assert set(found.values()) <= {"own", "sequence", "popular"}
    assert "merge" in [stage["name"] for stage in answer["stages"]]
    refused = ask(client, "/recommend", {"items": ["i1"], "own": ["i9"]}, status=422)
    assert "own" in refused["error"]["message"]


def test_without_exploration_a_request_id_comes_back_only_when_it_was_sent(client: httpx.Client) -> None:
    assert ask(client, "/recommend", {"items": ["i1"], "request_id": "mine"})["request_id"] == "mine"
    assert ask(client, "/rank", {"candidates": ["i1"], "request_id": "mine"})["request_id"] == "mine"
    assert "request_id" not in ask(client, "/recommend", {"items": ["i1"]})
    ask(client, "/recommend", {"items": ["i1"], "request_id": ""}, status=422)
