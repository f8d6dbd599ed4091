"""The table of two tiers: vectors worked out by hand, against a plain loop, and in the exported graph."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.codes import unpack
from millirec.data.errors import ConfigError
from millirec.models.layers.table import Tiered, TieredTable, item_table


def random_table(n_items: int, config: Tiered, width: int = 8, seed: int = 0) -> TieredTable:
    """Random bytes, scales and sub-vectors; random rows are fine."""
    rng = np.random.default_rng(seed)
    table = TieredTable(n_items, width, config)
    table.divide(rng.permutation(n_items)[: table.n_fine] + 1)
    for codes in (table.fine.codes, table.coarse.codes):
        codes.copy_(torch.from_numpy(rng.integers(0, 256, codes.shape, np.uint8)))
    table.fine.scale[1:] = torch.from_numpy(rng.random((table.n_fine, 1), np.float32)) + 0.1
    with torch.no_grad():
        table.coarse.centroids.copy_(torch.from_numpy(rng.standard_normal(table.coarse.centroids.shape, np.float32)))
    return table


def looped(table: TieredTable, config: Tiered, fine: set[int]) -> list[list[float]]:
    """Row by row: the next row of the one table or of the other."""
    levels = unpack(table.fine.codes.numpy(), config.bits) - (2**config.bits - 1) / 2
    own, numbers = levels * table.fine.scale.numpy(), unpack(table.coarse.codes.numpy(), config.code_bits)
    centroids = table.coarse.centroids.detach().numpy()
    out, places = [[0.0] * table.embedding_dim], {True: 1, False: 1}
    for row in range(1, table.n_items + 1):
        place = places[row in fine]
        places[row in fine] += 1
        if row in fine:
            out.append(own[place].tolist())
        else:
            out.append(np.concatenate([centroids[part, number] for part, number in enumerate(numbers[place])]).tolist())
    return out


def test_vectors_by_hand() -> None:
    # items 2 and 3 of four are fine: levels 0..15 about 7.5, two a byte, the lower half first
    table = TieredTable(4, 4, Tiered(share=0.5, codes=2))
    table.divide(np.array([3, 2]))
    assert table.slots[:, 0].tolist() == [0, 0, 1, 2, 2]
    table.fine.codes[1:] = torch.tensor([[0x80, 0xF0], [0x77, 0x88]], dtype=torch.uint8)
    table.fine.scale[1:] = torch.tensor([[2.0], [1.0]])
    table.coarse.codes[1:] = torch.tensor([[5, 9], [9, 5]], dtype=torch.uint8)
    with torch.no_grad():
        table.coarse.centroids.copy_(torch.arange(2 * 256 * 2.0).view(2, 256, 2))
    assert table.vectors().tolist() == [
        [0, 0, 0, 0],
        [10, 11, 530, 531],
        [-15, 1, -15, 15],
        [-0.5, -0.5, 0.5, 0.5],
        [18, 19, 522, 523],
    ]
    assert table(torch.tensor([[4, 0], [2, 2]], dtype=torch.int32)).tolist() == [
        [[18, 19, 522, 523], [0, 0, 0, 0]],
        [[-15, 1, -15, 15], [-15, 1, -15, 15]],
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from([2, 4, 8]), st.sampled_from([4, 8]), st.integers(0, 10_000))
def test_any_division_against_a_loop(n_items: int, share: float, bits: Any, code_bits: Any, seed: int) -> None:
    config = Tiered(share=share, bits=bits, codes=4, code_bits=code_bits)
    table = random_table(n_items, config, seed=seed)
    fine = set((np.random.default_rng(seed).permutation(n_items)[: table.n_fine] + 1).tolist())
    assert len(fine) == round(share * n_items)
    want = torch.tensor(looped(table, config, fine), dtype=torch.float32)
    torch.testing.assert_close(table.vectors(), want, rtol=1e-6, atol=1e-6)
    rows = torch.randint(0, n_items + 1, (3, 5), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(table(rows), table.vectors()[rows])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 1.2}, r"\$\.model\.table\.share = 1\.2"),
        ({"share": float("nan")}, r"\$\.model\.table\.share = nan"),
        ({"bits": 3}, r"\$\.model\.table\.bits = 3"),
        ({"codes": 0}, r"\$\.model\.table\.codes = 0"),
        ({"code_bits": 2}, r"\$\.model\.table\.code_bits = 2"),
        ({"codes": 3}, r"codes = 3 does not divide \$\.model\.embedding_dim = 8"),
        ({"codes": 1, "code_bits": 4}, r"codes = 1 numbers of 4 bits fill no whole bytes"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        item_table(Tiered(**settings), 10, 8)
