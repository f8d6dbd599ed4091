"""How configs say the sizes of heads and of hidden layers, so that smaller ones can be said too."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from millirec.data.errors import ConfigError

_HAIR = 1e-6


def head_size(width: int, heads: int, head_dim: int | None) -> int:
    """Numbers in a head: `head_dim`, where it is None an equal part of the width.

    Raises ConfigError when the heads cannot share the width.
    """
    if head_dim is not None:
        if head_dim < 1:
            raise ConfigError(f"$.model.head_dim = {head_dim}", "choose at least 1, or leave it out")
        return head_dim
    if width % heads:
        raise ConfigError(
            f"$.model.heads = {heads} does not divide $.model.embedding_dim = {width}",
            "choose a divisor, or set $.model.head_dim",
        )
    return width // heads


def head_dim_of(width: int, heads: int, size: int) -> int | None:
    """The `head_dim` that says heads of this size: None, where that is an equal part of the width."""
    return None if heads * size == width else size


def hidden_size(width: int, feed_forward: float) -> int:
    """Neurons in a layer that is `feed_forward` times as wide as the width.

    Raises ConfigError when that is no whole number of at least 1.
    """
    exact = width * feed_forward
    if not (0.5 < exact < 1e9 and abs(exact - round(exact)) < _HAIR * exact):
        raise ConfigError(
            f"$.model.feed_forward = {feed_forward} times $.model.embedding_dim = {width} are {exact:g} neurons",
            "choose a multiple that gives a whole number of at least 1",
        )
    return round(exact)


def feed_forward_of(width: int, neurons: int) -> float:
    """The `feed_forward` that says this number of neurons; an int where it is whole."""
    return neurons // width if neurons % width == 0 else neurons / width


class Sizes(NamedTuple):
    """`width` of a block's input, `heads` of `head_dim` numbers each, hidden `neurons`."""

    width: int
    heads: int
    head_dim: int
    neurons: int

    def shrunk(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """The fields of a config that say these sizes, with those that `counts` names replaced."""
        width, heads = counts.get("width", self.width), counts.get("heads", self.heads)
        return {
            "embedding_dim": width,
            "heads": heads,
            "head_dim": head_dim_of(width, heads, self.head_dim),
            "feed_forward": feed_forward_of(width, counts.get("feed_forward", self.neurons)),
        }
