"""Which configs can be trained by gradient at all, and how."""

import msgspec

from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.config import ModelConfig
from millirec.models.layers.table import Dense, Quantized, Tiered
from millirec.train.config import TrainConfig


def check_trainable(
    model: ModelConfig, train: TrainConfig, at: str = "$.", name: str = "model", *, fitted: bool = False
) -> None:
    """Raises ConfigError for a network of rounded numbers, and for what only a table of floats can do.

    `fitted`: a compression has given the item table its codes already. Errors call the model's config `at` + `name`,
    and the training's `at` + "train".
    """
    if not isinstance(model, NetworkConfig):
        return
    if isinstance(model.table, Quantized):
        raise ConfigError(
            f"{at}{name}.table.kind = 'quantized' cannot be trained", "train a dense table and quantise the checkpoint"
        )
    if isinstance(model.table, Tiered) and not fitted:
        raise ConfigError(
            f"{at}{name}.table.kind = 'tiered' cannot be trained from nothing",
            'train a dense table and compress the checkpoint with a step "tiered"',
        )
    if model.weights != "fp32":
        raise ConfigError(
            f"{at}{name}.weights = {model.weights!r} cannot be trained", "train with fp32 and quantise the checkpoint"
        )
    for field in ("sparse_rows", "adversarial"):
        if getattr(train, field):
            check_dense(model, f"{at}train.{field}", f"{at}{name}")


def check_dense(model: ModelConfig, field: str, name: str = "$.model") -> None:
    """Raises ConfigError when item vectors do not each have numbers of their own, as `field` needs."""
    if isinstance(model, NetworkConfig) and not isinstance(model.table, Dense):
        kind = msgspec.to_builtins(model.table)["kind"]
        raise ConfigError(f"{field}: with {name}.table.kind = {kind!r} items share their numbers", f"leave {field} out")
