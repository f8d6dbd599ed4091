"""Settings of the machine, apart from hyper-parameters."""

import contextlib
import functools
import random
from collections.abc import Iterator

import msgspec
import numpy as np
import torch

from millirec.data.errors import ConfigError


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how a run computes. `threads` = 0 means all cores; `device` is "cpu", "cuda", "cuda:1", ...

    `save_every_seconds`: how much work a killed run may lose.
    """

    device: str = "cpu"
    threads: int = 0
    seed: int = 42
    save_every_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.threads < 0 or self.seed < 0 or self.save_every_seconds < 0:
            raise ConfigError("$.machine: `threads`, `seed` and `save_every_seconds` must not be negative")

    def prepare(self) -> torch.device:
        """Set threads and seeds. Raises ConfigError when the device is not there."""
        if self.threads:
            torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"$.machine.device = {self.device!r}", "use cpu or cuda") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"$.machine.device = {self.device!r}: no such device here", "use cpu")
        return device


def generator(seed: int, *stream: int) -> np.random.Generator:
    """A generator of its own for each purpose: the same seed and stream give the same numbers, in any order."""
    return np.random.default_rng([seed, *stream])


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in bfloat16 where torch finds it safe, when `precision` is "bf16"."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextlib.contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Let oneDNN compute float32 matrix products on the processor, where it does so in full.

    torch asks MKL, which has no AVX-512 for AMD's processors and takes up to 1.5 times as long there. What makes torch
    ask oneDNN also allows it to round to bfloat16 where the processor has units for that: there nothing is changed.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and before == "highest" and _computes_in_full():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _computes_in_full() -> bool:
    """Whether products stay exact to float32 with the setting of `fast_products`."""
    a = torch.rand((256, 64), generator=torch.Generator().manual_seed(0)) + 0.5
    torch.set_float32_matmul_precision("medium")
    try:
        error = (a @ a.T - (a.double() @ a.double().T)).abs().max()
    finally:
        torch.set_float32_matmul_precision("highest")
    return bool(error < 1e-3)  # sums are near 70; bfloat16 is wrong by a hundredth and more
