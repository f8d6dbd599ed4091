"""What goes into the linear layers of a network: measured on real histories."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from millirec.data.dataset import TRAIN, Dataset
from millirec.data.encode import encode
from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.layers.linear import input_range
from millirec.train.machine import generator

_CALIBRATION = 21  # stream of random numbers
_BATCH = 32
_KEPT = 20_000  # values that a batch gives for each layer

Ranges = dict[str, tuple[Tensor, Tensor]]


def calibrated_ranges(checkpoint: Checkpoint, dataset: Dataset, histories: int, share: float, seed: int) -> Ranges:
    """Scale and middle of the input of every linear layer, by name, from random training histories.

    A share of `share` of the values lies within the range. `dataset` has the checkpoint's vocabulary. Raises
    ConfigError when nobody has 2 training events.
    """
    network, rng = checkpoint.network(), generator(seed, _CALIBRATION)
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(_watch(seen.setdefault(name, []), rng))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.inference_mode():
        for batch in _batches(dataset, max_length(checkpoint.config), histories, rng):
            for row in range(len(batch.items)):  # one at a time: padding would count as input
                _read(network, Inputs(*(field[row : row + 1] for field in batch)))
    for hook in hooks:
        hook.remove()
    return {name: _range(torch.cat(values), share) for name, values in seen.items() if values}


def _read(network: nn.Module, one: Inputs) -> None:
    assert isinstance(network, SequenceModel)  # noqa: S101
    length = int(one.lengths[0])
    cut = Inputs(one.items[:, :length], one.lengths, one.times[:, :length], one.now)
    network.forward(cut)
    network.user_vectors(cut)


def _batches(dataset: Dataset, length: int, histories: int, rng: np.random.Generator) -> list[Inputs]:
    seq = dataset.sequences
    known = np.bincount(seq.users[seq.roles == TRAIN], minlength=len(seq.offsets) - 1)
    stops = seq.offsets[:-1] + known
    starts = np.maximum(seq.offsets[:-1], stops - length)
    users = np.flatnonzero(stops - starts >= 2)
    if not len(users):
        raise ConfigError("no user has 2 training events to calibrate with", "use more data, or another split")
    chosen = rng.permutation(users)[:histories]
    out = []
    for at in range(0, len(chosen), _BATCH):
        spans = [slice(starts[user], stops[user] - 1) for user in chosen[at : at + _BATCH]]
        now = seq.times[[span.stop for span in spans]]
        out.append(Inputs.of(encode([seq.items[s] for s in spans], [seq.times[s] for s in spans], length, now)))
    return out


def _watch(values: list[Tensor], rng: np.random.Generator) -> Callable[[nn.Module, Any], None]:
    def hook(_: nn.Module, given: Any) -> None:
        flat = given[0].detach().flatten()
        if len(flat) > _KEPT:
            flat = flat[torch.from_numpy(rng.integers(0, len(flat), _KEPT))]
        values.append(flat)

    return hook


def _range(values: Tensor, share: float) -> tuple[Tensor, Tensor]:
    ordered = values.sort().values
    cut = int((1 - share) / 2 * len(ordered))
    return input_range(ordered[cut], ordered[len(ordered) - 1 - cut])
