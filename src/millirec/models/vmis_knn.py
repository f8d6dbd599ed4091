"""VMIS-kNN: what the most alike of the newest sessions took.

Kersbergen, Sprangers and Schelter, "Serenade: Low-Latency Session-Based Recommendation in e-Commerce at Scale",
SIGMOD 2022.
"""

from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs
from millirec.models.session_table import SessionTable


class VMISKNNConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="vmis-knn"
):
    """`sessions`: the newest sessions that share an item with the question are looked at (m in the paper);
    `neighbours`: the most alike of them vote (k). The newest `max_length` events of the question are read; the
    weight of a shared item falls linearly with its age over `decay` events."""

    sessions: int = 1000
    neighbours: int = 200
    max_length: int = 10
    decay: int = 10

    def __post_init__(self) -> None:
        if min(self.sessions, self.neighbours, self.max_length, self.decay) < 1:
            raise ConfigError(
                "$.model: `sessions`, `neighbours`, `max_length` and `decay` must be at least 1",
                "raise the one that is not",
            )


class VMISKNN(nn.Module):
    """Two ragged tables: the newest sessions of each item, and the items of those sessions.

    Sessions are numbered by the time of their last event, so the larger number is the newer session. A session
    that no item keeps is not stored. `item_stops` and `session_stops` int64 (n + 1,): where the part of each row
    ends; `idf` (n_items + 1,): log of all sessions over those with the item.
    """

    votes = True

    item_stops: Tensor
    item_sessions: Tensor
    session_stops: Tensor
    session_items: Tensor
    idf: Tensor

    def __init__(self, config: VMISKNNConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("item_stops", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("item_sessions", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("session_stops", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("session_items", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("idf", torch.zeros(n_items + 1))

    def fit(self, users: Tensor, items: Tensor, times: Tensor) -> None:
        """Number the sessions, and keep the newest of each item."""
        n, what = len(self.item_stops), items.numpy().astype(np.int64)
        numbers, n_sessions = _by_recency(users.numpy(), times.numpy())
        of_item, session = np.divmod(np.unique(what * n_sessions + numbers), n_sessions)
        held = np.bincount(of_item, minlength=n)
        self.idf = torch.from_numpy(np.log(n_sessions / np.maximum(held, 1))).float()
        newer = np.cumsum(held)[of_item] - 1 - np.arange(len(of_item))
        kept = newer < self.config.sessions
        known = np.unique(session[kept])
        self.item_stops = torch.from_numpy(np.cumsum(np.bincount(of_item[kept], minlength=n)))
        self.item_sessions = torch.from_numpy(np.searchsorted(known, session[kept])).int()
        stored = np.isin(session, known)
        of_item, session = of_item[stored], np.searchsorted(known, session[stored])
        self.session_stops = torch.from_numpy(np.cumsum(np.bincount(session)))
        self.session_items = torch.from_numpy(of_item[np.argsort(session, kind="stable")]).int()

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Votes of the neighbours, (B, n_items + 1) or (B, C); 0 where no neighbour has the item."""
        question, session, alike, age = self._neighbours(inputs)
        read = inputs.lengths.clamp(max=self.config.max_length)[question]
        match = (1 - age / self.config.decay).clamp(min=0)
        which, place = _ragged(self.session_stops, session)
        item = self.session_items[place].long()
        votes = (alike / read * match)[which] * self.idf[item]
        n = len(self.idf)
        out = torch.zeros(len(inputs.lengths) * n).index_add_(0, question[which] * n + item, votes)
        out = out.view(-1, n)
        return out if candidates is None else out.gather(1, candidates.long())

    def _neighbours(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Question, session, likeness and age of the newest shared item of every neighbour, each (k,)."""
        question, item, weight, age = self._asked(inputs)
        which, place = _ragged(self.item_stops, item)
        n = len(self.session_stops)
        pairs, at = torch.unique(question[which] * n + self.item_sessions[place].long(), return_inverse=True)
        alike = torch.zeros(len(pairs)).index_add_(0, at, weight[which])
        youngest = torch.full((len(pairs),), torch.inf).scatter_reduce_(0, at, age[which], "amin")
        question, session = pairs // n, pairs % n
        recent = _first(question.flip(0), self.config.sessions).flip(0)  # pairs ascend: the newest come last
        question, session, alike, youngest = (x[recent] for x in (question, session, alike, youngest))
        order = torch.argsort(session, descending=True)
        order = order[torch.argsort(alike[order], descending=True, stable=True)]
        order = order[torch.argsort(question[order], stable=True)]
        best = order[_first(question[order], self.config.neighbours)]
        return question[best], session[best], alike[best], youngest[best]

    def _asked(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The distinct items of each question: question, item, weight and age (0 = the newest event), each (q,).

        The weight is the place in the question, 1 for the oldest: whole numbers, so that equals stay equal when summed.
        """
        items, lengths = inputs.items.long(), inputs.lengths.long()[:, None]
        places = torch.arange(items.shape[1])[None, :]
        age = lengths - 1 - places
        later = (items[:, :, None] == items[:, None, :]) & (places[:, :, None] < places[:, None, :])
        real = (items > 0) & (age < self.config.max_length) & ~later.any(2)
        read = lengths.clamp(max=self.config.max_length)
        weight = (read - age).float()
        return torch.nonzero(real)[:, 0], items[real], weight[real], age[real].float()

    def count_table(self) -> SessionTable:
        """As `Counted.count_table`: the sessions themselves."""
        config = self.config
        return SessionTable(
            self.item_stops.numpy(),
            self.item_sessions.numpy(),
            self.session_stops.numpy(),
            self.session_items.numpy(),
            self.idf.numpy(),
            *(config.sessions, config.neighbours, config.max_length, config.decay),
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The tables are as long as the data made them: take their lengths from what is loaded."""
        for name in ("item_sessions", "session_stops", "session_items"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _by_recency(users: NDArray[np.int32], times: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The number of each event's session, 0 = the one that ended first, and how many there are."""
    _, session = np.unique(users, return_inverse=True)
    ends = np.full(int(session.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(ends, session, times)
    number = np.empty(len(ends), np.int64)
    number[np.argsort(ends, kind="stable")] = np.arange(len(ends))
    return number[session], len(ends)


def _ragged(stops: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """For each element of the parts `rows` of a ragged table: its index in `rows`, and its place in the table."""
    ends = stops[rows]
    starts = torch.where(rows > 0, stops[(rows - 1).clamp(min=0)], 0)
    which = torch.repeat_interleave(ends - starts)
    before = torch.cumsum(ends - starts, 0) - (ends - starts)
    return which, starts[which] + torch.arange(len(which)) - before[which]


def _first(groups: Tensor, count: int) -> Tensor:
    """Which elements are among the first `count` of their run of equal numbers, bool."""
    if not len(groups):
        return torch.zeros(0, dtype=torch.bool)
    lengths = torch.unique_consecutive(groups, return_counts=True)[1]
    starts = torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    return torch.arange(len(groups)) - starts < count
