"""Several networks as one ranker: mixed by chances, each with as much history as it reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import TEST, Dataset
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.split import LeaveLastOut, split, targets
from millirec.models.base import Inputs, Ranker
from millirec.models.checkpoint import Checkpoint, Provenance
from millirec.models.ease import EASEConfig
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.hstu import HSTUConfig
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.markov import MarkovConfig
from millirec.models.popularity import PopularityConfig
from millirec.train.ensemble import Ensemble, fitted_shares, fitted_weights, likeliest, likeliest_sum, newest
from millirec.train.evaluate import rank_targets
from millirec.train.fit import fit
from millirec.train.fusion import Fused, Fusion
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import dataset_of
from tests.networks import N_ITEMS, network, small


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(N_ITEMS)[:n].tolist() for n in rng.integers(4, 25, 40)]
    return split(dataset_of([[item + 1 for item in row] for row in sequences], N_ITEMS), LeaveLastOut())


@pytest.fixture(scope="module")
def members(dataset: Dataset) -> list[Checkpoint]:
    told = Provenance(fingerprint="", protocol="", n_events=1, trained_until=1)
    configs = [small(HSTUConfig), small(LinearRecurrentConfig, temperature=None), GRU4RecConfig(max_length=5)]
    return [Checkpoint(c, network(c).state_dict(), dataset.items, dataset.popularity, told) for c in configs]


def test_chances_are_mixed(dataset: Dataset, members: list[Checkpoint]) -> None:
    """Each member alone, on the history cut to its length, by plain arithmetic."""
    seq, weights = dataset.sequences, [0.5, 0.3, 0.2]
    spans = [slice(seq.offsets[user], seq.offsets[user + 1] - 1) for user in (1, 2, 3)]
    now = [int(seq.times[span.stop]) for span in spans]

    def inputs(length: int) -> Inputs:
        return Inputs.of(encode([seq.items[s] for s in spans], [seq.times[s] for s in spans], length, now))

    want = 0.0
    with torch.inference_mode():
        for member, weight, length in zip(members, weights, (14, 14, 5), strict=True):
            model = member.network()
            logits = (model.user_vectors(inputs(length)) @ model.item_vectors()[1:].T).double().numpy()
            want = want + weight * np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ensemble = Ensemble(members, [5.0, 3.0, 2.0])
        assert isinstance(ensemble, Ranker)
        assert ensemble.max_length == 14
        found = ensemble.scores(inputs(14))
    np.testing.assert_allclose(found[:, 1:].exp(), want, rtol=1e-4)
    assert (found[:, 0] == -torch.inf).all()
    some = torch.tensor([[3, 1], [2, 2], [7, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(ensemble.scores(inputs(14), some), found.gather(1, some))


def test_alone_a_model_ranks_as_ever(dataset: Dataset, members: list[Checkpoint]) -> None:
    asked = targets(dataset, TEST)
    for member, length in zip(members, (14, 14, 5), strict=True):
        alone = rank_targets(member.network(), dataset, asked, length)
        ensemble = Ensemble([member])
        mixed = rank_targets(ensemble, dataset, asked, ensemble.max_length)
        assert mixed.ranks.tolist() == alone.ranks.tolist()
        assert mixed.top.tolist() == alone.top.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 10))
def test_the_newest_events_are_those_of_a_shorter_encoding(lengths: list[int], length: int) -> None:
    rng = np.random.default_rng(0)
    items = [rng.integers(1, 30, n).astype(np.int32) for n in lengths]
    times = [np.sort(rng.integers(0, 10**6, n)) for n in lengths]
    whole, cut = (Inputs.of(encode(items, times, size, [10**7] * len(items))) for size in (10, length))
    for found, want in zip(newest(whole, length), cut, strict=True):
        assert torch.equal(found, want)


def test_weights_by_hand() -> None:
    """The first member says .8 for three of four targets and .2 for one, the second .2 and .8: all weight but a
    third is the first's. Of a mixture w: (.2 + .6 w)^3 (.8 - .6 w) is highest at w = 11 / 12.
    """
    chances = np.array([[0.8, 0.2]] * 3 + [[0.2, 0.8]])
    np.testing.assert_allclose(likeliest(chances), [11 / 12, 1 / 12], atol=1e-4)
    np.testing.assert_allclose(likeliest(np.array([[0.5, 0.1], [0.4, 0.3]])), [1, 0], atol=1e-4)


def test_fitted_weights_are_likelier_than_any_other(dataset: Dataset, members: list[Checkpoint]) -> None:
    chances, seq = [], dataset.sequences
    with torch.inference_mode():
        for user in range(1, 41):
            place = seq.offsets[user + 1] - 2  # the validation target
            span = slice(seq.offsets[user], place)
            batch = encode([seq.items[span]], [seq.times[span]], 14, [int(seq.times[place])])
            chances.append(Ensemble(members).log_chances(Inputs.of(batch))[:, 0, seq.items[place]].exp().numpy())

    def likelihood(weights: list[float]) -> float:
        return float(np.log(np.array(chances) @ np.array(weights) / sum(weights)).mean())

    best = fitted_weights(Ensemble(members), dataset)
    assert sum(best) == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)
    for other in [[1.0, 1.0, 1.0], *rng.random((10, 3)).tolist()]:
        assert likelihood(best) >= likelihood(other) - 1e-5


def test_members_that_cannot_be_mixed_are_refused(dataset: Dataset, members: list[Checkpoint]) -> None:
    other = replace(members[1], catalog=Catalog(Vocabulary([f"x{row}" for row in range(N_ITEMS)])))
    with pytest.raises(ArtifactError, match="member 2 knows other items"):
        Ensemble([members[0], other])
    config = EASEConfig()
    closed = replace(members[0], config=config, parameters=network(config).state_dict())
    with pytest.raises(ConfigError, match="member 2: EASE gives no logits"):
        Ensemble([members[0], closed])
    counted = replace(members[0], config=PopularityConfig(), parameters=network(PopularityConfig()).state_dict())
    with pytest.raises(ConfigError, match="member 2: a Popularity cannot be packed"):
        Fused([members[0], counted], Fusion([1.0, 1.0]))


def test_votes_are_mixed_as_shares(dataset: Dataset, members: list[Checkpoint]) -> None:
    """A chain of counted transitions beside a network; where nobody has voted all are alike."""
    chain = fit(dataset, MarkovConfig(shrink=0.0), TrainConfig(), Machine(threads=1), Silent())
    counts = chain.network()
    seq = dataset.sequences
    items = np.array([[1, 2], [3, 4]], np.int32)
    inputs = Inputs.of(encode(list(items), [seq.times[:2], seq.times[:2]], 14, [10**6, 10**6]))
    empty = chain.parameters | {name: torch.zeros_like(chain.parameters[name]) for name in ("chances", "backing")}
    with torch.inference_mode():
        found = Ensemble([members[0], chain], [0.75, 0.25]).scores(inputs)[:, 1:].exp().numpy()
        plain = Ensemble([members[0]]).scores(inputs)[:, 1:].exp().numpy()
        none = Ensemble([replace(chain, parameters=empty)]).scores(inputs)[:, 1:].exp().numpy()
        votes = counts.scores(inputs)[:, 1:].numpy()
    np.testing.assert_allclose(none, 1 / N_ITEMS, rtol=1e-5)
    want = 0.75 * plain + 0.25 * votes / votes.sum(1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-4)
    assert (votes == 0).any()  # what never followed is not impossible to the mixture
    assert (found > 0).all()


def test_shares_of_a_sum_are_found_again() -> None:
    """Targets drawn from the softmax of 1.5 a + 0.5 b, and a third member that knows nothing."""
    torch.manual_seed(0)
    logs = torch.randn(3, 20_000, 12).log_softmax(2)
    wanted = torch.multinomial((1.5 * logs[0] + 0.5 * logs[1]).softmax(1), 1)[:, 0]
    found = likeliest_sum(logs, wanted)
    assert found[:2] == pytest.approx([1.5, 0.5], abs=0.06)
    assert found[2] < 0.06

    def loss(weights: list[float]) -> float:
        scores = torch.tensordot(torch.tensor(weights), logs, 1)
        return float(torch.nn.functional.cross_entropy(scores, wanted))

    for place in range(2):
        for step in (-0.05, 0.05):
            moved = list(found)
            moved[place] += step
            assert loss(found) < loss(moved)


def test_shares_are_fitted_on_the_validation_part(dataset: Dataset, members: list[Checkpoint]) -> None:
    shares = fitted_shares(Ensemble(members), dataset)
    assert len(shares) == 3
    assert all(share >= 0.001 for share in shares)
    assert shares == fitted_shares(Ensemble(members), dataset)


def test_a_baseline_remembers_whether_it_was_asked_for_repeats(dataset: Dataset) -> None:
    """As networks do: else it would be measured on other targets later, and could not be compared with them."""
    for repeats in (False, True):
        made = fit(dataset, MarkovConfig(), TrainConfig(repeats=repeats), Machine(threads=1), Silent())
        assert made.lineage[0].settings["repeats"] is repeats
