import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.encode import encode
from millirec.models.base import Inputs, catalog_scores
from millirec.models.config import build
from millirec.models.item_knn import ItemKNNConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.noise import Noisy, dropped, injected, swapped

LONG = np.arange(1, 20_001, dtype=np.int32)
TIMES = LONG.astype(np.int64) * 1000


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 1000))
def test_noise_keeps_what_it_must(n: int, share: float, seed: int) -> None:
    items, times = LONG[:n], TIMES[:n]
    rng = np.random.default_rng(seed)
    left, left_times = dropped(items, times, share, rng)
    assert 1 <= len(left) <= n
    assert (left_times == 1000 * left).all()
    moved = swapped(items, share, rng)
    assert sorted(moved) == items.tolist()
    assert (np.abs(moved - items) <= 1).all()
    more, more_times = injected(items, times, share, 20_000, rng)
    assert (np.diff(more_times) >= 0).all()
    assert len(more) == len(more_times) <= 2 * n
    assert more.min() >= 1
    assert more[-1] == items[-1]


def test_the_shares_are_kept() -> None:
    rng = np.random.default_rng(0)
    assert len(dropped(LONG, TIMES, 0.2, rng)[0]) == pytest.approx(16_000, rel=0.02)
    assert (swapped(LONG, 0.2, rng) != LONG).sum() == pytest.approx(4000, rel=0.05)
    assert len(injected(LONG, TIMES, 0.2, 5, rng)[0]) == pytest.approx(24_000, rel=0.02)


def inputs(n: int = 6) -> Inputs:
    rng = np.random.default_rng(1)
    rows = [rng.integers(1, 31, size).astype(np.int32) for size in rng.integers(1, 20, n)]
    return Inputs.of(encode(rows, [np.arange(len(row)) * 1000 for row in rows], 20))


@pytest.mark.parametrize("config", [SASRecConfig(embedding_dim=16, max_length=20), ItemKNNConfig()])
@pytest.mark.parametrize("kind", ["drop", "swap", "inject"])
def test_the_noise_of_a_history_is_its_own(config: SASRecConfig | ItemKNNConfig, kind: str) -> None:
    """Alone or in a batch, the same; another seed, another noise; no noise, the model itself."""
    model = build(config, 30).eval()
    if isinstance(config, ItemKNNConfig):
        model.fit(torch.arange(60) % 9, torch.arange(60) % 30 + 1, torch.arange(60))
    asked = inputs()
    with torch.inference_mode():
        together = Noisy(model, kind, 0.4, 30, 20, seed=1).scores(asked)
        alone = [
            Noisy(model, kind, 0.4, 30, 20, seed=1).scores(Inputs(*(x[i : i + 1] for x in asked))) for i in range(6)
        ]
        other = Noisy(model, kind, 0.4, 30, 20, seed=2).scores(asked)
        none = Noisy(model, kind, 0.0, 30, 20, seed=1).scores(asked)
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(none, catalog_scores(model, asked), rtol=1e-4, atol=1e-5)
    if isinstance(config, SASRecConfig):
        assert not torch.allclose(together, other)
