"""Unit vectors and a temperature: scores as cosines, which sampled losses learn faster from."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def user_side(vectors: Tensor, temperature: float | None) -> Tensor:
    """Vectors (..., d) of length 1 / temperature; as they are when it is None."""
    return vectors if temperature is None else F.normalize(vectors, dim=-1) / temperature
