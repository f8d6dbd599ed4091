"""Members fused: the network's lists are the engine's, and a stacker finds the weights that made the targets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from millirec.bundle import open_bundle, pack_ensemble
from millirec.data.dataset import TEST, Dataset
from millirec.data.errors import ConfigError
from millirec.data.split import LeaveLastOut, split, targets
from millirec.engine.engine import Engine
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore
from millirec.frontier.replay import replay
from millirec.models.checkpoint import Checkpoint
from millirec.models.fusion import Stacked
from millirec.models.sasrec import SASRecConfig
from millirec.train.ensemble import Ensemble
from millirec.train.evaluate import rank_targets
from millirec.train.fusion import Fused, Fusion, fit, fitted_stack, stacked
from tests.bundles import untrained
from tests.logs import dataset_of

N_ITEMS = 60


@pytest.fixture(scope="module")
def members() -> list[Checkpoint]:
    """Of other widths and lengths."""
    small = SASRecConfig(embedding_dim=12, blocks=1, heads=1, max_length=4)
    other = untrained(N_ITEMS, small, seed=1)
    return [untrained(N_ITEMS), other]


@pytest.fixture(scope="module")
def dataset(members: list[Checkpoint]) -> Dataset:
    rng = np.random.default_rng(0)
    sequences = [(rng.permutation(N_ITEMS)[:n] + 1).tolist() for n in rng.integers(4, 25, 40)]
    made = split(dataset_of(sequences, N_ITEMS), LeaveLastOut())
    vocabulary = members[0].catalog
    return replace(made, items=vocabulary)


@pytest.mark.parametrize("way", ["reciprocal-rank", "stacked"])
def test_networks_and_engine_give_the_same_lists(
    dataset: Dataset, members: list[Checkpoint], way: str, tmp_path: Path
) -> None:
    fusion = fit(members, way, dataset)
    asked = targets(dataset, TEST)
    model = Fused(members, fusion)
    networks = rank_targets(model, dataset, asked, model.max_length, lists=10)
    pack_ensemble(members, fusion.shares, tmp_path / "b", fusion=fusion.how)
    engine = Engine(open_bundle(tmp_path / "b"), StateStore.temporary(), EngineSettings(parallel=False))
    served = replay(engine, dataset, TEST)
    engine.close()
    assert served.top[:, :10].tolist() == networks.top.tolist()
    assert served.ranks.tolist() == networks.ranks.tolist()


def test_ranks_are_no_sums(dataset: Dataset, members: list[Checkpoint]) -> None:
    asked = targets(dataset, TEST)
    models = [Fused(members, fit(members, way, dataset)) for way in ("equal", "reciprocal-rank")]
    summed, fused = (rank_targets(model, dataset, asked, model.max_length).top for model in models)
    assert (summed != fused).mean() > 0.5
    with pytest.raises(ConfigError, match="'vote'"):
        fit(members, "vote", dataset)


def test_a_stacker_finds_the_weights_again() -> None:
    """Targets drawn from the softmax of 1.2 a - 0.8 log rank of b; a third member's features know nothing."""
    torch.manual_seed(0)
    scores = torch.randn(3, 20_000, 10)
    places = scores.argsort(dim=2, descending=True).argsort(dim=2) + 1.0
    features = torch.cat([scores, -places.log()])
    wanted = torch.multinomial((1.2 * scores[0] - 0.8 * places[1].log()).softmax(1), 1)[:, 0]
    found = stacked(features, wanted, l2=1.0)
    assert found == pytest.approx([1.2, 0, 0, 0, 0.8, 0], abs=0.08)
    pulled = stacked(features, wanted, l2=20_000.0)
    assert sum(pulled) < 0.8 * sum(found)
    assert min(found[:3]) >= 0.001


def test_a_stack_is_fitted_on_the_validation_part(dataset: Dataset, members: list[Checkpoint]) -> None:
    fusion = fitted_stack(Ensemble(members), dataset)
    assert isinstance(fusion.how, Stacked)
    assert len(fusion.shares) == len(fusion.how.ranks) == 2
    assert fusion == fitted_stack(Ensemble(members), dataset)
    some = torch.tensor([[3, 1], [2, 2]])
    from millirec.data.encode import encode
    from millirec.models.base import Inputs

    inputs = Inputs.of(encode([np.array([1, 2], np.int32)] * 2, [np.array([1, 2])] * 2, 2, [3, 3]))
    with torch.inference_mode():
        model = Fused(members, Fusion(fusion.shares, fusion.how))
        whole = model.scores(inputs)
        torch.testing.assert_close(model.scores(inputs, some), whole.gather(1, some))
    assert (whole[:, 0] == -torch.inf).all()
