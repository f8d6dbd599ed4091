"""What the configs of all feature rankers have."""

from typing import Literal

import msgspec

from millirec.data.errors import ConfigError

_WEIGHTS = ("fp32", "fp16", "bf16", "int8", "int4")


class RankerNetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """`embedding_dim`: numbers a value of a feature.

    Compression sets the others: `weights` as in `NetworkConfig`; `table_bits`: bits of a number of a value's vector.
    """

    embedding_dim: int = 16
    weights: Literal["fp32", "fp16", "bf16", "int8", "int4"] = "fp32"
    table_bits: Literal[2, 4, 8] | None = None

    def __post_init__(self) -> None:
        self.at_least(1, "embedding_dim")
        if self.table_bits not in (None, 2, 4, 8):
            raise self.refused("table_bits", "choose 2, 4 or 8, or leave it out")
        if self.weights not in _WEIGHTS:
            raise self.refused("weights", f"use one of {', '.join(_WEIGHTS)}")

    def at_least(self, least: int, *names: str) -> None:
        """Raises ConfigError for a number, or one of several, that is too small."""
        for name in names:
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,), default=least) < least:
                raise self.refused(name, f"choose {least} or more")

    def refused(self, name: str, mend: str) -> ConfigError:
        """The error that names one of its settings."""
        value = getattr(self, name)
        shown = list(value) if isinstance(value, tuple) else value
        return ConfigError(f"$.ranker.{name} = {shown}", mend)


class DeepConfig(RankerNetworkConfig, frozen=True, kw_only=True):
    """`hidden`: widths of the hidden layers; `dropout` after each of them."""

    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "hidden")
        if not 0 <= self.dropout < 1:
            raise self.refused("dropout", "choose 0 or more, below 1")
        if not self.hidden:
            raise self.refused("hidden", "name the width of at least one layer")
