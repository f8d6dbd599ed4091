"""`Ensemble`: several networks as one ranker, by the mixture of what they expect."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.dataset import VALIDATION, Dataset
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.split import targets
from millirec.models.base import Inputs, SequenceModel, Votes, catalog_scores
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.train.evaluate import questions, sample_targets

Mixing = Literal["equal", "fitted"]

_ROUNDS, _STILL = 10_000, 1e-7  # of expectation and maximisation, and the step at which they end
NUMBERS, _FEWEST = 50_000_000, 200  # scores held at once when shares are fitted, and the fewest targets


class Ensemble(nn.Module):
    """The weighted mean of the softmaxes of several checkpoints. It is a `Ranker`.

    Scores are the logarithms of that mean: each member's logits have a scale of their own, its softmax has none. Of a
    baseline that counts votes their shares are mixed. `weights` (K,) sum up to 1. Each member reads as much of a
    history as its config says. Raises ArtifactError when members know different items, ConfigError when one has
    neither logits nor votes.
    """

    weights: Tensor

    def __init__(self, members: Sequence[Checkpoint], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        for number, member in enumerate(members):
            if member.catalog.vocabulary.ids != members[0].catalog.vocabulary.ids:
                raise ArtifactError(
                    f"member {number + 1} knows other items than the first", "train all on the same data"
                )
        self.members = nn.ModuleList(member.network() for member in members)
        self.lengths = [max_length(member.config) for member in members]
        for number, network in enumerate(self.members):
            if not isinstance(network, SequenceModel | Votes):
                raise ConfigError(
                    f"member {number + 1}: {type(network).__name__} gives no logits that could be mixed, and no votes",
                    "choose networks, or baselines that count",
                )
        given = torch.ones(len(members)) if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", given / given.sum())

    @property
    def max_length(self) -> int:
        """How many events of a history are read: as many as the member that reads most does."""
        return max(self.lengths)

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """As `Ranker.scores`; row 0 has -inf."""
        whole = torch.logsumexp(self.log_chances(inputs) + self.weights.log()[:, None, None], 0)
        return whole if candidates is None else whole.gather(1, candidates.long())

    def log_chances(self, inputs: Inputs) -> Tensor:
        """What each member expects, (K, B, n_items + 1): logarithms, -inf at row 0."""
        found = []
        for network, length in zip(self.members, self.lengths, strict=True):
            scores = catalog_scores(network, newest(inputs, length)).float()  # type: ignore[arg-type]
            own = _shares(scores[:, 1:]).log() if isinstance(network, Votes) else scores[:, 1:].log_softmax(1)
            found.append(torch.cat([torch.full_like(scores[:, :1], -torch.inf), own], 1))
        return torch.stack(found)


def _shares(votes: Tensor) -> Tensor:
    """Of votes (B, n) for each item; all alike where there are none."""
    total = votes.sum(1, keepdim=True)
    return torch.where(total > 0, votes / total.clamp_min(1e-30), 1 / votes.shape[1])


def newest(inputs: Inputs, length: int) -> Inputs:
    """The newest `length` events of each history."""
    width = inputs.items.shape[1]
    if width <= length:
        return inputs
    first = (inputs.lengths.long() - length).clamp_min(0)
    at = first[:, None] + torch.arange(length, device=first.device)
    return Inputs(inputs.items.gather(1, at), inputs.lengths.clamp_max(length), inputs.times.gather(1, at), inputs.now)


def fitted_weights(ensemble: Ensemble, dataset: Dataset, *, repeats: bool = False) -> list[float]:
    """The weights under which the validation targets are likeliest.

    By expectation and maximisation (Dempster, Laird and Rubin, 1977): the likelihood is concave in the weights, so
    there is one best answer.
    """
    asked = targets(dataset, VALIDATION, repeats=repeats)
    wanted = torch.from_numpy(dataset.sequences.items[asked.places].astype(np.int64))
    device = ensemble.weights.device
    chances = np.zeros((len(asked), len(ensemble.members)))
    with torch.inference_mode():
        for which, inputs in questions(dataset, asked, ensemble.max_length, device):
            own = wanted[torch.from_numpy(which)].to(device)
            found = ensemble.log_chances(inputs)[:, torch.arange(len(which), device=device), own]
            chances[which] = found.exp().T.cpu().numpy()
    return [float(weight) for weight in likeliest(chances)]


def likeliest(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (K,) of a mixture that give `chances` (t, K), those of the targets by member, the highest likelihood."""
    chances = np.maximum(chances, 1e-30)
    weights = np.full(chances.shape[1], 1 / chances.shape[1])
    for _ in range(_ROUNDS):
        parts = chances * weights
        new: NDArray[np.float64] = (parts / parts.sum(1, keepdims=True)).mean(0)
        if np.abs(new - weights).max() < _STILL:
            return new
        weights = new
    return weights


def fitted_shares(ensemble: Ensemble, dataset: Dataset, *, repeats: bool = False) -> list[float]:
    """The weights of a sum of the members' logits under which the validation targets are likeliest.

    Such a sum is what a bundle of several models ranks by (`millirec.bundle.pack_ensemble`). Of large catalogues as
    many targets are read as fit into memory, drawn at random with a fixed seed.
    """
    return likeliest_sum(*validation_logs(ensemble, dataset, NUMBERS, repeats=repeats))


def validation_logs(ensemble: Ensemble, dataset: Dataset, numbers: int, *, repeats: bool) -> tuple[Tensor, Tensor]:
    """What each member expects at validation targets, (K, t, n), and those targets, int64 (t,), both from 0.

    As many targets as have `numbers` numbers together, drawn at random with a fixed seed.
    """
    most = max(_FEWEST, numbers // (len(ensemble.members) * (len(dataset.items) + 1)))
    asked = sample_targets(dataset, VALIDATION, most, repeats=repeats, seed=0)
    wanted = torch.from_numpy(dataset.sequences.items[asked.places].astype(np.int64)) - 1
    device = ensemble.weights.device
    found, order = [], []
    with torch.inference_mode():
        for which, inputs in questions(dataset, asked, ensemble.max_length, device):
            found.append(ensemble.log_chances(inputs)[:, :, 1:].cpu())
            order.append(torch.from_numpy(which))
    return torch.cat(found, 1).clone(), wanted[torch.cat(order)]


def likeliest_sum(logs: Tensor, wanted: Tensor) -> list[float]:
    """Weights (K,), at least 0.001, for the sum of `logs` (K, t, n) that make `wanted` int64 (t,) likeliest.

    A multinomial logit (McFadden, 1974): concave in the weights, so there is one best answer. By L-BFGS on their
    logarithms.
    """
    exponents = torch.zeros(len(logs), requires_grad=True)
    search = torch.optim.LBFGS([exponents], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        scores = torch.tensordot(exponents.exp(), logs, 1)
        value = torch.nn.functional.cross_entropy(scores, wanted)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return [max(round(float(weight), 4), 0.001) for weight in exponents.detach().exp()]
