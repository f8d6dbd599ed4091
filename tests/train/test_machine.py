"""Faster matrix products in training: exact, and only while they are wanted."""

import pytest
import torch

from millirec.train import machine
from millirec.train.machine import fast_products

CPU = torch.device("cpu")


def test_products_stay_exact_to_float32() -> None:
    a, b = torch.randn(300, 64), torch.randn(64, 500)
    with fast_products(CPU):
        product = a @ b
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)


def test_the_setting_is_put_back() -> None:
    with pytest.raises(RuntimeError, match="stop"), fast_products(CPU):
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("full", "inside"), [(True, "medium"), (False, "highest")])
def test_a_processor_that_would_round_is_left_alone(full: bool, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_computes_in_full", lambda: full)
    with fast_products(CPU):
        assert torch.get_float32_matmul_precision() == inside


def test_an_accelerator_and_an_own_choice_are_left_alone() -> None:
    with fast_products(torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision("high")
    try:
        with fast_products(CPU):
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
