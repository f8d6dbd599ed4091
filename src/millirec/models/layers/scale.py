"""Unit vectors and a temperature: scores as cosines, which sampled losses learn faster from."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError


def check_temperature(temperature: float | None) -> None:
    """Raises ConfigError when a score could not be divided by it."""
    if temperature is not None and not 0.001 <= temperature <= 10:
        raise ConfigError(f"$.model.temperature = {temperature}", "choose 0.001 to 10, or leave it out")


def user_side(vectors: Tensor, temperature: float | None) -> Tensor:
    """Vectors (..., d) of length 1 / temperature; as they are when it is None."""
    return vectors if temperature is None else F.normalize(vectors, dim=-1) / temperature


def item_side(vectors: Tensor, temperature: float | None) -> Tensor:
    """Vectors (..., d) of length 1; as they are when `temperature` is None."""
    return vectors if temperature is None else F.normalize(vectors, dim=-1)
