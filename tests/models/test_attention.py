"""The block of the newest event against all of the block, and against torch's own attention."""

import pytest
import torch

from millirec.models.layers.attention import CausalBlock, Shape


@pytest.mark.parametrize(("heads", "size"), [(1, 16), (2, 8), (4, 4), (3, 5)])
def test_the_last_position_alone_is_the_last_position_of_all(heads: int, size: int) -> None:
    torch.manual_seed(0)
    block = CausalBlock(Shape(16, heads, size, 32), 0.3).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, lengths = torch.randn(5, 9, 16), torch.tensor([9, 1, 4, 7, 2])
    with torch.inference_mode():
        whole, last = block(x), block.last(x, lengths)
    torch.testing.assert_close(last[:, 0], whole[torch.arange(5), lengths - 1], rtol=1e-4, atol=1e-5)


def test_what_comes_later_does_not_count() -> None:
    block = CausalBlock(Shape(16, 2, 8, 32), 0.0).eval()
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[0, 4:] = 0
    with torch.inference_mode():
        torch.testing.assert_close(block(x)[0, :4], block(changed)[0, :4])
        assert not torch.allclose(block(x)[0, 5], block(changed)[0, 5])


def test_training_drops_and_evaluation_does_not() -> None:
    block = CausalBlock(Shape(16, 2, 8, 32), 0.5)
    x = torch.randn(2, 6, 16)
    with torch.inference_mode():
        assert not torch.equal(block(x), block(x))
        assert torch.equal(block.eval()(x), block.eval()(x))
