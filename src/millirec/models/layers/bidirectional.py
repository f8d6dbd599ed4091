"""A Transformer block whose places see all others: for models that fill gaps."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.models.layers.attention import CausalBlock


class BidirectionalBlock(CausalBlock):
    """`CausalBlock` with the future in sight; `last` is the same, for to the last place all others are past."""

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, L, d) to (B, L, d). `real` bool (B, L): places that may be seen, at least one a row; None = all."""
        normed = self.attention_norm(x)
        mask = None if real is None else real[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        mixed = F.scaled_dot_product_attention(*self._project(normed, normed), attn_mask=mask)
        return self._finish(x, mixed)
