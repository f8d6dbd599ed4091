"""`Fused`: several networks as one ranker, by the same fusion as a bundle of them; and a stacker that is fitted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, SequenceModel, catalog_scores
from millirec.models.checkpoint import Checkpoint
from millirec.models.fusion import FusionConfig, ReciprocalRank, Stacked, fused, places
from millirec.train.ensemble import NUMBERS, Ensemble, fitted_shares, newest, validation_logs

WAYS = ("equal", "fitted", "reciprocal-rank", "stacked")
_LEAST = 0.001  # share of a member: enough to order what no other one orders


class Fusion(NamedTuple):
    """How members become one: the weights of their scores, and what is made of these; None = their sum."""

    shares: Sequence[float]
    how: FusionConfig | None = None


class Fused(nn.Module):
    """What a bundle of these checkpoints says (`millirec.bundle.pack_ensemble`). It is a `Ranker`.

    Raises ArtifactError and ConfigError where `Ensemble` does, and for baselines, which no bundle holds.
    """

    def __init__(self, members: Sequence[Checkpoint], fusion: Fusion) -> None:
        super().__init__()
        self.ensemble, self.fusion = Ensemble(members), fusion
        for number, network in enumerate(self.ensemble.members):
            if not isinstance(network, SequenceModel):
                kind = type(network).__name__
                raise ConfigError(
                    f"member {number + 1}: a {kind} cannot be packed", "choose networks, or mix by chances"
                )

    @property
    def max_length(self) -> int:
        """How many events of a history are read."""
        return self.ensemble.max_length

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """As `Ranker.scores`; row 0 has -inf."""
        each = self._member_scores(inputs)
        whole = torch.full_like(each[0], -torch.inf)
        if self.fusion.how is None:
            whole[:, 1:] = each[:, :, 1:].sum(0)
        else:
            arrays = each[:, :, 1:].cpu().numpy()
            made = [fused(self.fusion.how, list(arrays[:, at])) for at in range(arrays.shape[1])]
            whole[:, 1:] = torch.from_numpy(np.array(made)).to(whole)
        return whole if candidates is None else whole.gather(1, candidates.long())

    def _member_scores(self, inputs: Inputs) -> Tensor:
        """Weighted scores (K, B, n_items + 1)."""
        ensemble = self.ensemble
        found = [
            share * catalog_scores(network, newest(inputs, length)).float()  # type: ignore[arg-type]
            for network, length, share in zip(ensemble.members, ensemble.lengths, self.fusion.shares, strict=True)
        ]
        return torch.stack(found)


def fit(members: Sequence[Checkpoint], way: str, dataset: Dataset, *, repeats: bool = False) -> Fusion:
    """The fusion that is named so: "equal" and "fitted" weights of a sum, "reciprocal-rank", or "stacked"."""
    match way:
        case "equal":
            return Fusion([1.0] * len(members))
        case "fitted":
            return Fusion(fitted_shares(Ensemble(members), dataset, repeats=repeats))
        case "reciprocal-rank":
            return Fusion([1.0] * len(members), ReciprocalRank())
        case "stacked":
            return fitted_stack(Ensemble(members), dataset, repeats=repeats)
    raise ConfigError(f"fusion {way!r}", f"use one of {', '.join(WAYS)}")


def fitted_stack(ensemble: Ensemble, dataset: Dataset, *, repeats: bool = False, l2: float = 1.0) -> Fusion:
    """The weights of the members' scores and of the logarithms of their places that suit the validation targets best.

    Of large catalogues as many targets are read as fit into memory. `l2`: see `stacked`.
    """
    logs, wanted = validation_logs(ensemble, dataset, NUMBERS // 3, repeats=repeats)
    ranks = torch.from_numpy(np.stack([np.log(places(own.numpy())) for own in logs])).float()
    weights = stacked(torch.cat([logs, -ranks]), wanted, l2)
    n = len(logs)
    return Fusion(weights[:n], Stacked(ranks=tuple(weights[n:])))


def stacked(features: Tensor, wanted: Tensor, l2: float) -> list[float]:
    """Weights (F,) for the sum of `features` (F, t, n) that make `wanted` int64 (t,) likeliest, by a logit model.

    None is negative, and those of the first half, which are scores, are at least 0.001. `l2` / 2 times the sum of
    squares of the weights (of features of unit variance within a question) is added to the sum of the targets' losses:
    a normal prior of variance 1 / `l2`. The likelihood is concave, so there is one best answer; by L-BFGS-B (Byrd et
    al., SIAM J. Sci. Comput. 1995).
    """
    scale = features.std(dim=2).mean(dim=1).clamp_min(1e-6)
    n_targets, n_scores = len(wanted), len(features) // 2

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        given = torch.tensor(weights, dtype=torch.float32, requires_grad=True)
        fit = torch.nn.functional.cross_entropy(torch.tensordot(given / scale, features, 1), wanted)
        value = fit + l2 / (2 * n_targets) * given.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None  # noqa: S101
        return float(value.detach()), given.grad.double().numpy()

    least = [_LEAST * float(one) if place < n_scores else 0.0 for place, one in enumerate(scale)]
    found = minimize(
        loss, np.full(len(features), 0.5), jac=True, method="L-BFGS-B", bounds=[(low, None) for low in least]
    )
    weights = (found.x / scale.numpy()).tolist()
    return [max(round(one, 4), _LEAST if place < n_scores else 0.0) for place, one in enumerate(weights)]
