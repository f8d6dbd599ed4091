"""FinalNet: layers that multiply what they find, each doubling the degree of crosses. Zhu et al., SIGIR 2023."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.layers.dropout import Dropout
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, output


class FinalNetConfig(DeepConfig, frozen=True, kw_only=True, tag="finalnet"):
    """`hidden` are the layers of the first block, `second` those of the other one; empty = one block only."""

    second: tuple[int, ...] = (128, 128)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "second")


class FinalNet(nn.Module):
    """Blocks of factorised interaction layers, each normalised over the batch; the logits of the blocks add up."""

    def __init__(self, config: FinalNetConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        width = self.vectors.fields * config.embedding_dim
        blocks = [widths for widths in (config.hidden, config.second) if widths]
        self.blocks = nn.ModuleList(_block(width, widths, config.dropout) for widths in blocks)
        self.outputs = nn.ModuleList(output(widths[-1]) for widths in blocks)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        x = self.vectors(inputs).flatten(1)
        logits: Tensor = sum(last(block(x)) for block, last in zip(self.blocks, self.outputs, strict=True)).squeeze(1)
        return logits


class _Interaction(nn.Module):
    """u + u v, of two linear maps u and v of the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.maps = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.maps(x).chunk(2, dim=1)
        crossed: Tensor = one + one * other
        return crossed


class _Norm(nn.BatchNorm1d):
    """A batch of one row, which has no deviation, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _block(inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [_Interaction(inputs, width), _Norm(width), nn.ReLU(), Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers)
