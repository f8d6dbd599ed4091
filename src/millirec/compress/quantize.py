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
from millirec.compress.rounding import block_codes, exact, row_codes, train_rounded
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
_INTEGERS = ("int8", "int8-static", "int4")


class Quantize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quantize"):
    """`weights`: "int8" with inputs scaled as they come; "int8-static" with inputs scaled by what `calibration` random
    training histories show (`share` of the values lie within); "int4" with a scale for each block of weights and inputs
    as they are; all three with 16 bits for all other parameters; "fp16", "bf16"; None = as they are. `table_bits`: 8, 4
    or 2 bits for item vectors, with a scale for each row; None = as they are.

    With `train` the network learns on, rounded as it will be, before its numbers are fixed (quantisation-aware training
    with straight-through gradients: Jacob et al., CVPR 2018).
    """

    weights: Target | None = "int8"
    table_bits: Literal[2, 4, 8] | None = None
    calibration: int = 512
    share: float = 0.9999
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        if self.weights is None and self.table_bits is None:
            raise ConfigError("`weights` and `table_bits` are both left out", "set one of them")
        if self.weights is not None and self.weights not in get_args(Target):
            raise ConfigError(f"weights = {self.weights!r}", f"use one of {', '.join(get_args(Target))}")
        if self.table_bits not in (None, 2, 4, 8):
            raise ConfigError(f"table_bits = {self.table_bits}", "choose 2, 4 or 8")
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
            rounding = partial(train_rounded, weights=self.weights, bits=self.table_bits, ranges=ranges)
            learned = recovered(checkpoint, self.train, workshop, folder, rounding)
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
            numbers, scale = row_codes(out.pop("item.weight"), self.table_bits)
            out["item.codes"] = torch.from_numpy(pack(numbers.numpy(), self.table_bits))
            out["item.scale"] = scale
        if self.weights in _INTEGERS:
            for name, module in network.named_modules():
                if isinstance(module, nn.Linear):
                    _replace_linear(out, name, module, block_codes if self.weights == "int4" else channel_codes)
                    _add_range(out, name, ranges)
        if self.weights is not None:
            # Scales of bytes stay exact. What int8 leaves as floats is small, and as good in 16 bits.
            kind = torch.bfloat16 if self.weights == "bf16" else torch.float16
            rest = [name for name, value in out.items() if value.dtype == torch.float32 and not _is_scale(name, out)]
            out |= {name: out[name].to(kind).float() for name in rest}
        return out


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
