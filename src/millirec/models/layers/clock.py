"""Time as a network reads it: when each place asks, and how long ago something was, in buckets.

A server knows when it is asked, so each place may know when its own question comes: the time of the event after
it, and for the last place the time of the request.
"""

import torch
from torch import Tensor

from millirec.models.base import Inputs

BUCKETS = 64
_WIDTH = 0.3  # natural logarithm of seconds: 64 buckets reach 6.7 years


def asked_at(inputs: Inputs) -> Tensor:
    """When the question after each event is put, int64 (B, L), milliseconds."""
    following = torch.cat([inputs.times[:, 1:], inputs.now[:, None]], dim=1)
    steps = torch.arange(inputs.items.shape[1], device=inputs.items.device)
    newest = steps[None, :] >= inputs.lengths.long()[:, None] - 1
    return torch.where(newest, inputs.now[:, None], following)


def buckets(milliseconds: Tensor) -> Tensor:
    """The bucket of a span of time, int64, same shape: 0 = up to a second, each next one 1.35 times as long.

    Logarithmic buckets as in Zhai et al., "Actions Speak Louder than Words" (HSTU), ICML 2024.
    """
    seconds = (milliseconds.float() / 1000).clamp_min(1.0)
    return (seconds.log() / _WIDTH).long().clamp(max=BUCKETS - 1)
