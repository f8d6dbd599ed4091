"""The report counts by hand what a checkpoint holds, and says of zeros that they bring no speed."""

import pytest
import torch

from millirec.compress.prune import Prune
from millirec.compress.report import described, multiply_adds, zeros_by_parameter
from millirec.compress.structure import PruneStructure
from millirec.compress.workshop import Workshop
from millirec.models.config import GRU4RecConfig, PopularityConfig, SASRecConfig, build
from tests.bundles import untrained
from tests.networks import small

LENGTH = 14


@pytest.mark.parametrize("weights", ["fp32", "int8", "int8-static", "int4"])
def test_multiply_adds_of_sasrec_by_hand(weights: str) -> None:
    """Width 8, 2 heads of 4, 32 neurons: a whole block at 14 places, then the newest place of another."""
    network = build(small(SASRecConfig, weights=weights), 30).eval()
    whole = LENGTH * (8 * 8 + 8 * 16 + 8 * 8 + 8 * 32 + 32 * 8) + 2 * 2 * 4 * LENGTH * LENGTH
    newest = 8 * 8 + 8 * 8 + 8 * 32 + 32 * 8 + 2 * (4 * 8 + 8 * LENGTH + LENGTH * 8 + 8 * 4)
    assert multiply_adds(network, 30, LENGTH) == whole + newest


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
def test_multiply_adds_of_a_recurrent_network_by_hand(cell: str, gates: int) -> None:
    """Width 8, two layers of 12."""
    network = build(small(GRU4RecConfig, cell=cell), 30).eval()
    assert multiply_adds(network, 30, LENGTH) == LENGTH * gates * 12 * (8 + 12 + 12 + 12) + 12 * 8


def test_a_model_without_user_vectors_has_none() -> None:
    assert multiply_adds(build(PopularityConfig(), 5), 5, 1) is None


def test_zeros_are_called_by_their_name() -> None:
    before = untrained(30, small(SASRecConfig))
    after = Prune(sparsity=0.75, include=("linear",)).apply(before, Workshop(), None)
    report = described(before, after)
    assert report.before.numbers == report.after.numbers == sum(v.numel() for v in before.parameters.values())
    assert report.after.zeros - report.before.zeros == 2 * 0.75 * (8 * 8 + 8 * 16 + 8 * 8 + 2 * 8 * 32)
    assert report.after.multiply_adds == report.before.multiply_adds
    assert report.after.bytes < report.before.bytes
    assert report.zeros["blocks.0.query.weight"] == 0.75
    assert any("bring no speed" in remark for remark in report.remarks)
    assert len(described(before, before).remarks) == 0


def test_a_smaller_network_is_told_in_multiply_adds() -> None:
    before = untrained(30, small(SASRecConfig))
    report = described(before, PruneStructure(keep_blocks=1).apply(before, Workshop(), None))
    assert len(report.remarks) == 1
    assert "fewer multiply-adds" in report.remarks[0]


def test_whole_numbers_are_no_zeros() -> None:
    made = untrained(30, small(SASRecConfig))
    made.parameters["codes"] = torch.zeros(3, dtype=torch.uint8)
    assert "codes" not in zeros_by_parameter(made)
    assert zeros_by_parameter(made)["item.weight"] == pytest.approx(1 / 31)
