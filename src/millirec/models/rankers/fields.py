"""`FieldVectors`: rows of features to a vector a field; and the hidden layers that read them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.layers.dropout import Dropout


class FieldVectors(nn.Module):
    """(B, F, d): categorical features, multi-valued ones (the mean of their values), sequences (the mean of their
    items, which have the vectors of the categorical feature they belong to), and numbers (a vector times the number).

    All values of all features stand in one table; id 0 of a categorical feature, the unknown, has a vector too. Empty
    lists and sequences are zeros.
    """

    bases: Tensor
    list_bases: Tensor
    sequence_bases: Tensor

    def __init__(self, schema: Schema, width: int) -> None:
        super().__init__()
        spaces = (*schema.categorical, *schema.lists)
        ends = torch.tensor([0, *(space.size + 1 for space in spaces)]).cumsum(0)
        n = len(schema.categorical)
        widths = torch.tensor([space.width for space in schema.lists], dtype=torch.int64)
        # Integers that follow from the schema: they need no place in a checkpoint.
        self.register_buffer("bases", ends[:n].int(), persistent=False)
        self.register_buffer("list_bases", ends[n:-1].repeat_interleave(widths).int(), persistent=False)
        of = [space.of for space in schema.sequences]
        self.register_buffer("sequence_bases", ends[torch.tensor(of, dtype=torch.int64)].int(), persistent=False)
        self.widths = widths.tolist()
        self.plain = n + len(schema.lists) + len(schema.numbers)
        self.sequences = len(schema.sequences)
        self.fields, self.width = self.plain + self.sequences, width
        if not self.fields:
            raise ConfigError("$.features: empty", "declare at least one feature")
        self.table = nn.Embedding(int(ends[-1]), width)
        self.numbers = nn.Parameter(torch.empty(len(schema.numbers), width))
        for weights in (self.table.weight, self.numbers):
            nn.init.normal_(weights, std=0.01)

    def forward(self, inputs: RankInputs) -> Tensor:
        """(B, F, d), sequences last."""
        return torch.cat([self.without_sequences(inputs), self._means(inputs)], dim=1)

    def singly(self, inputs: RankInputs) -> Tensor:
        """(B, N, d): as `forward`, but each value of a multi-valued feature by itself, zeros where there is none."""
        listed, present = self._listed(inputs)
        histories = self._means(inputs)
        return torch.cat([self._ids(inputs), listed * present.unsqueeze(2), self._numbers(inputs), histories], dim=1)

    def without_sequences(self, inputs: RankInputs) -> Tensor:
        """(B, F - S, d): categorical, multi-valued, numbers."""
        listed, present = self._listed(inputs)
        spans = zip(torch.split(listed, self.widths, 1), torch.split(present, self.widths, 1), strict=True)
        lists = [mean_of(values, there).unsqueeze(1) for values, there in spans] if self.widths else []
        return torch.cat([self._ids(inputs), *lists, self._numbers(inputs)], dim=1)

    def _ids(self, inputs: RankInputs) -> Tensor:
        vectors: Tensor = self.table(inputs.ids + self.bases)
        return vectors

    def _listed(self, inputs: RankInputs) -> tuple[Tensor, Tensor]:
        """Vectors (B, V, d) of the values of all multi-valued features, and which are there, bool (B, V)."""
        return self.table(inputs.lists + self.list_bases), inputs.lists > 0

    def _numbers(self, inputs: RankInputs) -> Tensor:
        return inputs.numbers.unsqueeze(2) * self.numbers

    def _means(self, inputs: RankInputs) -> Tensor:
        """(B, S, d). Sequences of a single row are those of all rows."""
        return mean_of(*self.histories(inputs)).expand(inputs.ids.shape[0], -1, -1)

    def histories(self, inputs: RankInputs) -> tuple[Tensor, Tensor]:
        """Vectors (B, S, L, d) of the sequences, and which places hold one, bool (B, S, L)."""
        return self.table(inputs.sequences + self.sequence_bases[:, None]), inputs.sequences > 0


def mean_of(vectors: Tensor, present: Tensor) -> Tensor:
    """The mean over the last but one axis of (..., L, d), of the places that are present (..., L)."""
    weights = present.to(vectors.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return (vectors * weights.unsqueeze(-1)).sum(-2)


class Linear(nn.Module):
    """A weight for each value of each feature, and a bias: the first order of the classical models.

    To them a feature with several values is several features.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.weights = FieldVectors(schema, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: RankInputs) -> Tensor:
        """(B,)."""
        sums: Tensor = self.weights.singly(inputs).sum((1, 2)) + self.bias
        return sums


class Hidden(nn.Sequential):
    """Fully connected layers with ReLU and dropout after each; the last one has no output layer."""

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU(), Dropout(dropout)]
            inputs = width
        super().__init__(*layers)


def output(inputs: int) -> nn.Linear:
    """The layer that makes one number of what the last one found."""
    return nn.Linear(inputs, 1)
