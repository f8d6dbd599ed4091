"""A Transformer block whose places see all others: for models that fill gaps."""

from torch import Tensor

from millirec.models.layers.attention import CausalBlock
from millirec.models.layers.self_attention import open_attention


class BidirectionalBlock(CausalBlock):
    """`CausalBlock` with the future in sight; `last` is the same, for to the last place all others are past."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, L, d) to (B, L, d). `real` bool (B, L): places that may be seen, at least one a row; None = all."""
        normed = self.attention_norm(x)
        mixed = open_attention(*self._project(normed, normed), real, training=self.training)
        return self._finish(x, mixed)
