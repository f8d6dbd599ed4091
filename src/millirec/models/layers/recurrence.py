"""Gated linear recurrence: S' = a (S + k v'), o = q (S + k v'), with a decay `a` for each head and event.

The state S holds key_dim x value_dim numbers a head, whatever the length of the history. Several ways to the same
numbers: all pairs at once (`mix`), chunks that hand a state on (`mix_chunked`, for training: a fifth of the work at
200 events), one event at a time (`mix_step`), and the state that a history leaves (`memory`). Yang et al., "Gated
Linear Attention Transformers with Hardware-Efficient Training", ICML 2024; Dao and Gu, "Transformers are SSMs", ICML
2024.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def mix(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """(B, H, L, v) from queries and keys (B, H, L, k), values (B, H, L, v) and log_decay (B, H, L), all <= 0."""
    before = log_decay.cumsum(-1) - log_decay
    spans = before[..., :, None] - before[..., None, :]
    length = torch.arange(query.shape[2], device=query.device)
    past = length[:, None] >= length[None, :]
    weights = spans.masked_fill(~past, -torch.inf).exp() * (query @ key.transpose(2, 3))
    return weights @ value


def memory(key: Tensor, value: Tensor, log_decay: Tensor, at: Tensor) -> Tensor:
    """The state S that meets the event at place `at` int64 (B,): all that came before it, (B, H, k, v)."""
    before = log_decay.cumsum(-1) - log_decay
    newest = before.gather(2, at[:, None, None].expand(-1, before.shape[1], 1))
    past = torch.arange(key.shape[2], device=key.device)[None, :] < at[:, None]
    decay = (newest - before).masked_fill(~past[:, None], -torch.inf).exp()
    return (key * decay[..., None]).transpose(2, 3) @ value


def mix_chunked(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, chunk: int = 32) -> Tensor:
    """As `mix`: pairs within a chunk, and a state from chunk to chunk."""
    length = query.shape[2]
    missing = -length % chunk
    query, key, value = (_chunks(F.pad(x, (0, 0, 0, missing)), chunk) for x in (query, key, value))
    log_decay = _chunks(F.pad(log_decay, (0, missing))[..., None], chunk).squeeze(-1)
    before = log_decay.cumsum(-1) - log_decay
    whole = log_decay.sum(-1)
    within = _within(query, key, value, before)
    left = (whole[..., None] - before).exp()
    added = (key * left[..., None]).transpose(-1, -2) @ value
    states = _states(added, whole.exp())
    across = (query * before.exp()[..., None]) @ states
    return (within + across).flatten(2, 3)[:, :, :length]


def mix_step(state: Tensor, query: Tensor, key: Tensor, value: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Output (B, H, v) and next state (B, H, k, v).

    `state` (B, H, k, v), `query` and `key` (B, H, k), `value` (B, H, v), `decay` (B, H).
    """
    full = state + key[..., None] * value[..., None, :]
    out = (query[..., None, :] @ full).squeeze(-2)
    return out, full * decay[..., None, None]


def _chunks(x: Tensor, chunk: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], -1, chunk, x.shape[3])


def _within(query: Tensor, key: Tensor, value: Tensor, before: Tensor) -> Tensor:
    """Pairs of events in one chunk; `before` (B, H, n, chunk): the sum of log decays before each."""
    spans = before[..., :, None] - before[..., None, :]
    weights = torch.tril((query @ key.transpose(-1, -2)) * spans.clamp(max=0).exp())
    return weights @ value


def _states(added: Tensor, decay: Tensor) -> Tensor:
    """The state at the start of each chunk, (B, H, n, k, v)."""
    state = torch.zeros_like(added[:, :, 0])
    states = []
    for i in range(added.shape[2]):
        states.append(state)
        state = state * decay[:, :, i, None, None] + added[:, :, i]
    return torch.stack(states, dim=2)
