"""NextItNet's convolutions against torch's, and Caser against the paper's loops over one window at a time."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.models.base import Inputs
from millirec.models.caser import Caser, CaserConfig
from millirec.models.export import random_batch
from millirec.models.nextitnet import CausalConvolution, NextItNetConfig
from tests.networks import N_ITEMS, network, small


@pytest.mark.parametrize(("kernel", "dilation", "length"), [(3, 1, 9), (3, 4, 9), (2, 8, 5), (4, 2, 1)])
def test_a_causal_convolution_is_torchs_with_zeros_before(kernel: int, dilation: int, length: int) -> None:
    torch.manual_seed(0)
    layer, x = CausalConvolution(6, kernel, dilation), torch.randn(3, length, 6)
    weight = layer.mix.weight.view(6, kernel, 6).transpose(1, 2)
    padded = F.pad(x.transpose(1, 2), ((kernel - 1) * dilation, 0))
    want = F.conv1d(padded, weight, layer.mix.bias, dilation=dilation).transpose(1, 2)
    torch.testing.assert_close(layer(x), want, rtol=1e-5, atol=1e-6)


def test_the_receptive_field_is_as_long_as_stated() -> None:
    config = NextItNetConfig(embedding_dim=8, dilations=[1, 2], kernel=2, max_length=40)
    assert config.receptive_field == 10
    module = network(config)
    items = torch.randint(1, N_ITEMS + 1, (1, 30), generator=torch.Generator().manual_seed(0)).int()
    times = torch.zeros(1, 30, dtype=torch.int64)
    inputs = Inputs(items, torch.tensor([30]), times, times[:, 0])
    with torch.inference_mode():
        before = module(inputs)[0, -1]
        for place, matters in ((19, False), (20, True)):
            changed = items.clone()
            changed[0, place] = changed[0, place] % N_ITEMS + 1
            after = module(inputs._replace(items=changed))[0, -1]
            assert torch.equal(after, before) != matters


def by_the_paper(module: Caser, window: Tensor) -> Tensor:
    """The vector of one window (window, d), filter by filter."""
    found = []
    for height, layer in enumerate(module.horizontal, start=1):
        for weight, bias in zip(layer.weight, layer.bias, strict=True):
            kernel = weight.view(height, -1)
            spots = [(kernel * window[i : i + height]).sum() + bias for i in range(len(window) - height + 1)]
            found.append(torch.stack(spots).relu().max())
    columns = window.T @ module.vertical.weight.T
    seen = torch.cat([torch.stack(found), columns.flatten()])
    return module.project(module.dense(seen).relu())


def test_caser_is_the_papers_loop_over_windows() -> None:
    module = network(small(CaserConfig, window=4, horizontal=3, vertical=2))
    inputs = Inputs.of(random_batch(N_ITEMS, 3, 9, seed=4))
    with torch.inference_mode():
        got = module(inputs)
        for row in range(3):
            for place in range(int(inputs.lengths[row])):
                rows = module.item(inputs.items[row, max(0, place - 3) : place + 1])
                window = F.pad(rows, (0, 0, 4 - len(rows), 0))
                torch.testing.assert_close(got[row, place], by_the_paper(module, window), rtol=1e-4, atol=1e-5)
