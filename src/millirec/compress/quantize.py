"""Quantisation: fewer bits for the weights of linear layers and for the vectors of items."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import torch
from torch import Tensor, nn

from millirec.compress.calibrate import Ranges, calibrated_ranges
from millirec.compress.recovery import measured, recovered
from millirec.compress.rounding import (
    MOST_STEP,
    Rounding,
    block_codes,
    exact,
    row_codes,
    shortened,
    train_rounded,
)
from millirec.compress.workshop import Workshop
from millirec.data.codes import pack
from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.linear import channel_codes
from millirec.models.layers.table import Dense, Quantized
from millirec.train.config import TrainConfig
from millirec.train.trainable import check_trainable

Target = Literal["fp16", "bf16", "int8", "int8-static", "int4"]
_REST_BITS = 6  # significant ones of what is not quantised beside weights of 4 bits
_INTEGERS = ("int8", "int8-static", "int4")


class Quantize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quantize"):
    """`weights`: "int8" with inputs scaled as they come; "int8-static" with inputs scaled by what `calibration` random
    training histories show (`share` of the values lie within); "int4" with a scale for each block of weights and inputs
    as they are; all three with 16 bits for all other parameters, of which "int4" leaves 6 significant ones; "fp16",
    "bf16"; None = as they are. `table_bits`: 8, 4 or 2 bits for item vectors, with a scale for each row; None = as they
    are. `step_scale`: levels of item vectors and of weights of 4 bits are wider by this factor than what loses least,
    so that fewer of them occur and files get smaller.

    With `train` the network learns on, rounded as it will be, before its numbers are fixed (quantisation-aware training
    with straight-through gradients: Jacob et al., CVPR 2018).
    """

    weights: Target | None = "int8"
    table_bits: Literal[2, 4, 8] | None = None
    step_scale: float = 1.0
    calibration: int = 512
    share: float = 0.9999
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        check_widths(self.weights, self.table_bits, get_args(Target))
        if not 1 <= self.step_scale <= MOST_STEP:
            raise ConfigError(f"step_scale = {self.step_scale}", f"choose a factor from 1 to {MOST_STEP}")
        if self.step_scale != 1 and self.weights != "int4" and self.table_bits is None:
            raise ConfigError(
                f"step_scale = {self.step_scale}: there is nothing that it widens",
                'leave it out, or set table_bits, or weights = "int4"',
            )
        if self.calibration < 1:
            raise ConfigError(f"calibration = {self.calibration}", "choose at least 1 history")
        if not 0.5 <= self.share <= 1:
            raise ConfigError(f"share = {self.share}", "choose a share from 0.5 to 1")
        if self.train is not None and self.train.sparse_rows:
            raise ConfigError("train.sparse_rows: rounding moves every row", "leave it out")

    @property
    def needs_data(self) -> bool:
        """Calibration and training read histories."""
        return self.weights == "int8-static" or self.train is not None

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The config with its `weights` and `table` replaced."""
        del n_items
        if not isinstance(config, NetworkConfig):
            kind = msgspec.to_builtins(config)["kind"]
            raise ConfigError(f"a model of kind {kind!r} has no weights to quantise", "choose a network")
        if self.weights is not None and config.weights != "fp32":
            raise ConfigError(f"the weights are {config.weights} already", "quantise them once, as the last step")
        if self.table_bits is not None and not isinstance(config.table, Dense):
            raise ConfigError(
                f"table_bits = {self.table_bits}: the item table is {config.table.__struct_config__.tag} already",
                "leave table_bits out",
            )
        if self.train is not None:
            check_trainable(config, self.train, at="", fitted=True)
        changes: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
        if self.table_bits is not None:
            changes["table"] = Quantized(bits=self.table_bits)
        new: ModelConfig = msgspec.structs.replace(config, **changes)
        build(new, 1)  # refuses a width that fills no whole bytes
        return new

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Calibrate, train on if asked to, and round. With data the validation figure is measured again."""
        config = self.rewritten(checkpoint.config, len(checkpoint.catalog))
        ranges = self._ranges(checkpoint, workshop)
        if self.train is not None:
            rounding = Rounding(self.weights, self.table_bits, self.step_scale, ranges)
            feel = partial(train_rounded, rounding=rounding)
            learned = recovered(checkpoint, self.train, workshop, folder, feel)
            checkpoint = replace(learned, parameters=exact(learned.parameters))
            ranges = self._ranges(checkpoint, workshop)
        made = replace(checkpoint, config=config, parameters=self._rounded(checkpoint, ranges), metrics={})
        return measured(made, workshop) if self.needs_data else made

    def _ranges(self, checkpoint: Checkpoint, workshop: Workshop) -> Ranges | None:
        if self.weights != "int8-static":
            return None
        seed = workshop.machine.seed
        return calibrated_ranges(checkpoint, workshop.dataset_of(checkpoint), self.calibration, self.share, seed)

    def _rounded(self, checkpoint: Checkpoint, ranges: Ranges | None) -> dict[str, Tensor]:
        network = checkpoint.network()
        out = dict(checkpoint.parameters)
        if self.table_bits is not None:
            numbers, scale = row_codes(out.pop("item.weight"), self.table_bits, self.step_scale)
            out["item.codes"] = torch.from_numpy(pack(numbers.numpy(), self.table_bits))
            out["item.scale"] = scale
        return out if self.weights is None else rounded_weights(network, out, self.weights, ranges, self.step_scale)


def check_widths(weights: str | None, table_bits: int | None, known: tuple[str, ...]) -> None:
    """Raises ConfigError for weights that are not `known`, for other bits than 2, 4 or 8, and for neither."""
    if weights is None and table_bits is None:
        raise ConfigError("`weights` and `table_bits` are both left out", "set one of them")
    if weights is not None and weights not in known:
        raise ConfigError(f"weights = {weights!r}", f"use one of {', '.join(known)}")
    if table_bits not in (None, 2, 4, 8):
        raise ConfigError(f"table_bits = {table_bits}", "choose 2, 4 or 8")


def rounded_weights(
    network: nn.Module,
    parameters: dict[str, Tensor],
    weights: Target,
    ranges: Ranges | None = None,
    step_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Linear layers as bytes where `weights` are integers, all other floats in 16 bits.

    `parameters` are those of `network`, whose table may have been rounded before. `ranges`: of the inputs of
    "int8-static". `step_scale` is that of `Quantize`.
    """
    out = dict(parameters)
    if weights in _INTEGERS:
        blocks = partial(block_codes, step_scale=step_scale)
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):
                _replace_linear(out, name, module, blocks if weights == "int4" else channel_codes)
                _add_range(out, name, ranges)
    # Scales of bytes stay exact. What integers leave as floats is small, and as good in 16 bits; beside weights of 4
    # bits it is a tenth of all bytes.
    kind = torch.bfloat16 if weights == "bf16" else torch.float16
    rest = [name for name, value in out.items() if value.dtype == torch.float32 and not _is_scale(name, out)]
    out |= {name: out[name].to(kind).float() for name in rest}
    return out | {name: shortened(out[name], _REST_BITS) for name in rest} if weights == "int4" else out


def _is_scale(name: str, parameters: dict[str, Tensor]) -> bool:
    """Whether it scales bytes that stand beside it."""
    owner, _, own = name.rpartition(".")
    return own in ("scale", "input_scale") and f"{owner}.codes" in parameters


def _replace_linear(
    parameters: dict[str, Tensor], name: str, module: nn.Linear, coded: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    """The parameters of a rounded layer in the place of a linear layer's."""
    codes, scale = coded(parameters.pop(f"{name}.weight"))
    bias = parameters.pop(f"{name}.bias", torch.zeros(module.out_features))
    parameters |= {f"{name}.codes": codes, f"{name}.scale": scale, f"{name}.bias": bias}


def _add_range(parameters: dict[str, Tensor], name: str, ranges: Ranges | None) -> None:
    if ranges is not None:
        # A layer that no history reached keeps the widest range of all others.
        step, middle = ranges[name] if name in ranges else max(ranges.values(), key=lambda found: float(found[0]))
        parameters |= {f"{name}.input_scale": step, f"{name}.input_middle": middle}
