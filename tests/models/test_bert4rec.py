"""The gaps of BERT4Rec: what is hidden, that it is hidden, and that training asks what prediction asks."""

import pytest
import torch
from torch import Tensor

from millirec.models.base import Inputs, Masked
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.export import random_batch
from tests.networks import N_ITEMS, network, small


def batch(size: int = 40, width: int = 12, seed: int = 3) -> tuple[Inputs, Tensor]:
    """Histories and the item after each event."""
    whole = random_batch(N_ITEMS, size, width + 1, seed)
    lengths = torch.from_numpy(whole.lengths).clamp(min=2)
    items = torch.randint(1, N_ITEMS + 1, (size, width + 1), generator=torch.Generator().manual_seed(seed))
    items[torch.arange(width + 1)[None, :] >= lengths[:, None]] = 0
    inputs, targets = items[:, :-1].clone(), items[:, 1:].clone()
    inputs[torch.arange(width)[None, :] >= lengths[:, None] - 1] = 0
    times = torch.zeros(size, width, dtype=torch.int64)
    return Inputs(inputs.int(), (lengths - 1).int(), times, times[:, 0]), targets


def test_it_asks_in_training_what_it_asks_in_prediction() -> None:
    """With the newest event alone hidden, the vectors are those of prediction, and the target is what came next."""
    module = network(small(BERT4RecConfig, last_share=1.0))
    assert isinstance(module, Masked)
    inputs, targets = batch()
    with torch.inference_mode():
        vectors, wanted = module.masked_pairs(inputs, targets)
        expected = module.user_vectors(inputs)
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(wanted, targets.gather(1, inputs.lengths.long()[:, None] - 1)[:, 0])


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_the_share_of_hidden_events(share: float) -> None:
    module = network(small(BERT4RecConfig, mask_share=share, last_share=0.0))
    inputs, targets = batch(4000)
    _, wanted = module.masked_pairs(inputs, targets)
    lengths = inputs.lengths.double() + 1
    # a row without any gap has its newest event hidden instead
    expected = float((share * lengths + (1 - share) ** lengths).sum())
    assert len(wanted) == pytest.approx(expected, rel=0.03)
    assert (wanted > 0).all()


def test_every_history_has_a_gap() -> None:
    module = network(small(BERT4RecConfig, mask_share=0.01, last_share=0.0))
    inputs, targets = batch(500)
    _, wanted = module.masked_pairs(inputs, targets)
    assert len(wanted) >= 500


def test_a_hidden_item_cannot_be_seen_and_the_others_can() -> None:
    module = network(small(BERT4RecConfig, last_share=0.0, mask_share=0.3))
    inputs, targets = batch(1)
    seen = unseen = 0
    for place in range(1, int(inputs.lengths[0])):
        items, following = inputs.items.clone(), targets.clone()
        items[0, place] = items[0, place] % N_ITEMS + 1
        following[0, place - 1] = items[0, place]
        with torch.inference_mode():
            torch.manual_seed(5)
            before, was = module.masked_pairs(inputs, targets)
            torch.manual_seed(5)
            after, now = module.masked_pairs(inputs._replace(items=items), following)
        if torch.equal(was, now):
            assert not torch.allclose(before, after)
            seen += 1
        else:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
            unseen += 1
    assert seen
    assert unseen


def test_it_sees_both_ways() -> None:
    module = network(small(BERT4RecConfig))
    inputs, _ = batch(1)
    items = inputs.items.clone()
    items[0, int(inputs.lengths[0]) - 1] = items[0, int(inputs.lengths[0]) - 1] % N_ITEMS + 1
    with torch.inference_mode():
        assert not torch.allclose(module(inputs)[0, 0], module(inputs._replace(items=items))[0, 0])
