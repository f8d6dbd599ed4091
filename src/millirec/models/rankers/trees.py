"""Gradient-boosted trees: the honest baseline of every table of features. Ke et al., "LightGBM", NeurIPS 2017.

LightGBM grows them (`train.grow`); what is kept and what answers are plain arrays, which need no LightGBM.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import RankerNetworkConfig

PLACES = ("column", "below", "left", "right", "words", "sets", "leaves", "gains")
"""What a forest consists of; see `Trees`."""
_TOGETHER = 64
"""Trees that are walked at once: memory for rows times this."""


class TreesConfig(RankerNetworkConfig, frozen=True, kw_only=True, tag="trees"):
    """At most `trees` trees of `leaves` leaves; none is added when the last `patience` made nothing better.

    `min_rows`: training rows in a leaf. `l2`: on the values of leaves. `row_share` and `column_share`: of those that
    each tree may use. `smoothing`: rows by which a categorical value is drawn to the mean before values are ordered.
    Of a multi-valued feature the `most_values` most frequent values are columns of their own, and of a sequence its
    length and how often it holds the row's own item.
    """

    embedding_dim: int = 1
    trees: int = 2000
    leaves: int = 63
    learning_rate: float = 0.1
    patience: int = 50
    min_rows: int = 50
    l2: float = 1.0
    row_share: float = 1.0
    column_share: float = 1.0
    smoothing: float = 10.0
    most_values: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dim != 1:
            raise self.refused("embedding_dim", "leave it out: trees read the values themselves")
        self.at_least(1, "trees", "patience", "min_rows", "most_values")
        self.at_least(2, "leaves")
        self.at_least(0, "l2", "smoothing")
        if self.learning_rate <= 0:
            raise self.refused("learning_rate", "choose a number above 0")
        for name in ("row_share", "column_share"):
            if not 0 < getattr(self, name) <= 1:
                raise self.refused(name, "choose a share above 0, at most 1")


class Trees(nn.Module):
    """T trees as arrays (T, N) over their nodes; node 0 is the root, and a leaf leads to itself.

    `column` int32: what a node asks. `below` float32: up to here a number goes `left` (int32), beyond it `right`.
    `words` int32 (T, N, 2): where the set of ids of a categorical question begins in `sets`, and how many words of 32
    bits it has; 0 words = a number is asked. `leaves` float32: what is added up. `gains` float32 (columns): by how much
    all splits on a column made the training loss smaller.
    """

    column: Tensor
    below: Tensor
    left: Tensor
    right: Tensor
    words: Tensor
    sets: Tensor
    leaves: Tensor
    gains: Tensor

    def __init__(self, config: TreesConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self._lists = [(space.width, min(space.size, config.most_values)) for space in schema.lists]
        self._of = [space.of for space in schema.sequences]
        self.names = _columns(schema, [values for _, values in self._lists])
        for name, value in empty_forest(len(self.names)).items():
            self.register_buffer(name, value)
        self._depth: int | None = None

    def read(self, inputs: RankInputs) -> Tensor:
        """What the trees ask, float32 (B, columns): ids, values of lists as 0 and 1, numbers, then sequences."""
        parts, at = [inputs.ids.float()], 0
        for width, values in self._lists:
            wanted = torch.arange(1, values + 1, dtype=torch.int32, device=inputs.lists.device)
            parts.append((inputs.lists[:, at : at + width, None] == wanted).any(1).float())
            at += width
        parts.append(inputs.numbers)
        for i, of in enumerate(self._of):
            items = inputs.sequences[:, i].expand(len(inputs.ids), -1)
            here = (items == inputs.ids[:, of, None]) & (items > 0)
            parts.append(torch.stack([(items > 0).sum(1), here.sum(1)], dim=1).float())
        return torch.cat(parts, dim=1)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        asked = self.read(inputs)
        if self._depth is None:
            self._depth = _depth(self.left, self.right)
        logits = torch.zeros(len(asked), device=asked.device)
        for first in range(0, len(self.left), _TOGETHER):
            trees = torch.arange(first, min(first + _TOGETHER, len(self.left)), device=asked.device)
            nodes = torch.zeros(len(asked), len(trees), dtype=torch.int64, device=asked.device)
            for _ in range(self._depth):
                nodes = self._children(asked, trees, nodes)
            logits = logits + self.leaves[trees, nodes].sum(1)
        return logits

    def _children(self, asked: Tensor, trees: Tensor, nodes: Tensor) -> Tensor:
        """The next node (B, T) of each row in each tree."""
        values = asked.gather(1, self.column[trees, nodes].long())
        begins, counts = self.words[trees, nodes].long().unbind(2)
        ids = values.long()
        known = (ids >> 5) < counts
        word = self.sets[torch.where(known, begins + (ids >> 5), 0)].long()
        among = known & ((word >> (ids & 31)) & 1).bool()
        goes_left = torch.where(counts > 0, among, values <= self.below[trees, nodes])
        return torch.where(goes_left, self.left[trees, nodes], self.right[trees, nodes]).long()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        """A forest is as large as it has grown: the buffers take the sizes of what is loaded."""
        for name in PLACES:
            found = state_dict.get(prefix + name)
            own = getattr(self, name)
            if found is not None and name != "gains":
                setattr(self, name, torch.empty(found.shape, dtype=own.dtype, device=own.device))
        self._depth = None
        super()._load_from_state_dict(state_dict, prefix, *more)


def _columns(schema: Schema, values: list[int]) -> tuple[str, ...]:
    """The feature that each column belongs to; of each list, so many values."""
    lists = [space.name for space, n in zip(schema.lists, values, strict=True) for _ in range(n)]
    sequences = [space.name for space in schema.sequences for _ in range(2)]
    return (*(space.name for space in schema.categorical), *lists, *schema.numbers, *sequences)


def _depth(left: Tensor, right: Tensor) -> int:
    """Questions on the longest way from a root to a leaf, of children (T, N)."""
    here = torch.zeros_like(left, dtype=torch.bool)
    here[:, 0] = True
    inner, depth = left != torch.arange(left.shape[1], device=left.device), 0
    while bool((asking := here & inner).any()):
        trees, nodes = asking.nonzero(as_tuple=True)
        here = torch.zeros_like(here)
        for children in (left, right):
            here[trees, children[trees, nodes].long()] = True
        depth += 1
    return depth


def empty_forest(columns: int) -> dict[str, Tensor]:
    """One tree of one leaf that says 0."""
    ints, floats = (torch.zeros(1, 1, dtype=kind) for kind in (torch.int32, torch.float32))
    return {
        "column": ints,
        "below": floats,
        "left": ints.clone(),
        "right": ints.clone(),
        "words": torch.zeros(1, 1, 2, dtype=torch.int32),
        "sets": torch.zeros(1, dtype=torch.int32),
        "leaves": floats.clone(),
        "gains": torch.zeros(columns),
    }
