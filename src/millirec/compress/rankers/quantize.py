"""Quantisation of rankers: fewer bits for the vectors of values and for the weights of linear layers."""

from dataclasses import replace
from typing import Literal, get_args

import msgspec
import torch

from millirec.compress.quantize import check_widths, rounded_weights
from millirec.compress.rankers.base import RankerWorkshop, check_network, measured
from millirec.compress.rounding import row_codes
from millirec.data.codes import pack
from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.fields import FieldVectors, rounds
from millirec.train.fit_ranker import training_of

Target = Literal["fp16", "bf16", "int8", "int4"]


class QuantizeRanker(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quantize"
):
    """`weights`: "int8" computes linear layers in integers, inputs scaled by batch; "int4" keeps their weights so; both
    with 16 bits for all other floats; "fp16", "bf16"; None = as they are. `table_bits`: 8, 4 or 2 bits for the vectors
    of values, with a scale for each; None = as they are.
    """

    weights: Target | None = "int8"
    table_bits: Literal[2, 4, 8] | None = 8

    def __post_init__(self) -> None:
        check_widths(self.weights, self.table_bits, get_args(Target))

    @property
    def needs_data(self) -> bool:
        """Calibration of the chances reads the validation rows."""
        return True

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The config with `weights` and `table_bits` replaced."""
        check_network(config, "weights to quantise")
        for name in ("weights", "table_bits"):
            found = getattr(config, name)
            if getattr(self, name) is not None and found not in (None, "fp32"):
                raise ConfigError(f"{name} is {found} already", "quantise once, as the last step")
        changes = {name: value for name in ("weights", "table_bits") if (value := getattr(self, name)) is not None}
        new: RankerConfig = msgspec.structs.replace(config, **changes)
        build_ranker(new, schema)  # refuses a width that fills no whole bytes
        return new

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """Round, then calibrate and measure anew."""
        network, parameters = checkpoint.network(), dict(checkpoint.parameters)
        if self.table_bits is not None:
            for name, module in network.named_modules():
                if isinstance(module, FieldVectors) and rounds(module.width, self.table_bits):
                    numbers, scale = row_codes(parameters.pop(f"{name}.table.weight"), self.table_bits)
                    parameters[f"{name}.table.codes"] = torch.from_numpy(pack(numbers.numpy(), self.table_bits))
                    parameters[f"{name}.table.scale"] = scale
        if self.weights is not None:
            parameters = rounded_weights(network, parameters, self.weights)
        config = self.rewritten(checkpoint.config, checkpoint.featuriser.schema())
        made = replace(checkpoint, config=config, parameters=parameters)
        return measured(made, workshop.rows(made), training_of(checkpoint))
