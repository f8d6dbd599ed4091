"""A first-order Markov chain: what followed the newest item before.

Rendle et al., "Factorizing Personalized Markov Chains for Next-Basket Recommendation", WWW 2010, without factors or
persons: counted transitions, drawn towards popularity where there are few.
"""

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs
from millirec.models.counts import CountTable


class MarkovConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="markov"
):
    """`neighbours`: followers kept for each item, the most frequent ones. `shrink`: how many transitions the shares
    of popularity weigh as much as."""

    neighbours: int = 200
    shrink: float = 1.0

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"$.model.neighbours = {self.neighbours}", "keep at least 1")
        if self.shrink < 0:
            raise ConfigError(f"$.model.shrink = {self.shrink}", "choose 0 or more")


class Markov(nn.Module):
    """Sparse: each item keeps the rows and chances of its most frequent followers only.

    The chance of j after i is (transitions(i, j) + shrink share(j)) / (transitions(i) + shrink), where share is
    that of all events. Transitions are between neighbouring events of a user or session, repeats included.
    """

    votes = True

    rows: Tensor
    chances: Tensor
    shares: Tensor
    backing: Tensor

    def __init__(self, config: MarkovConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        kept = min(config.neighbours, n_items)
        self.register_buffer("rows", torch.zeros(n_items + 1, kept, dtype=torch.int32))
        self.register_buffer("chances", torch.zeros(n_items + 1, kept))
        self.register_buffer("shares", torch.zeros(n_items + 1))
        self.register_buffer("backing", torch.ones(n_items + 1))

    def fit(self, users: Tensor, items: Tensor, times: Tensor) -> None:
        """Count neighbouring events of each user, by a stable sort on time."""
        who, what = users.numpy(), items.numpy().astype(np.int64)
        n, kept = self.rows.shape
        order = np.lexsort((times.numpy(), who))
        who, what = who[order], what[order]
        same = who[1:] == who[:-1]
        pairs, counts = np.unique(what[:-1][same] * n + what[1:][same], return_counts=True)
        before, after = np.divmod(pairs, n)
        events = np.bincount(what, minlength=n)
        total = np.bincount(before, weights=counts, minlength=n) + self.config.shrink + 1e-9
        order = np.lexsort((-events[after], -counts, before))
        before, after, chances = before[order], after[order], (counts / total[before])[order]
        place = _places(before)
        near = place < kept
        self.rows[before[near], place[near]] = torch.from_numpy(after[near]).int()
        self.chances[before[near], place[near]] = torch.from_numpy(chances[near]).float()
        self.shares = torch.from_numpy(events / events.sum()).float()
        self.backing = torch.from_numpy(self.config.shrink / total).float()

    def count_table(self) -> CountTable:
        """As `Counted.count_table`: chances after the newest item, without the part that all items have."""
        return CountTable.of(self.rows.numpy(), self.chances.numpy(), 1)

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Chances after the newest item, (B, n_items + 1) or (B, C); an empty history stands for everybody."""
        newest = inputs.items.long().gather(1, (inputs.lengths.long() - 1).clamp(min=0)[:, None]).squeeze(1)
        out = self.backing[newest, None] * self.shares[None, :]
        out.scatter_add_(1, self.rows[newest].long(), self.chances[newest])
        return out if candidates is None else out.gather(1, candidates.long())


def _places(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each element within its run of equal numbers; `groups` ascend."""
    starts = np.searchsorted(groups, groups)
    return np.arange(len(groups)) - starts
