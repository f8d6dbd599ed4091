"""Selectors: which of the scored candidates are answered, and in which order. `SelectorConfig` is the registry.

They work one after the other, each on what the one before gave.
"""

from millirec.cascade.query import Candidates
from millirec.cascade.selectors.calibrated import CalibratedSelector, calibrated
from millirec.cascade.selectors.choosing import Choosing
from millirec.cascade.selectors.dpp import DPPSelector, dpp
from millirec.cascade.selectors.epsilon import EpsilonSelector, epsilon_greedy
from millirec.cascade.selectors.mmr import MMRSelector, mmr
from millirec.cascade.selectors.places import PlacesSelector, places
from millirec.cascade.selectors.quota import QuotaSelector, quota
from millirec.cascade.selectors.softmax import SoftmaxSelector, softmax
from millirec.cascade.selectors.thompson import ThompsonSelector, thompson
from millirec.cascade.selectors.top_k import TopKSelector, top_k

__all__ = [
    "CalibratedSelector",
    "Choosing",
    "DPPSelector",
    "EpsilonSelector",
    "MMRSelector",
    "PlacesSelector",
    "QuotaSelector",
    "SelectorConfig",
    "SoftmaxSelector",
    "ThompsonSelector",
    "TopKSelector",
    "leaves_to_chance",
    "select",
    "top_k",
]

Deterministic = TopKSelector | MMRSelector | DPPSelector | QuotaSelector | PlacesSelector | CalibratedSelector
Drawing = EpsilonSelector | SoftmaxSelector | ThompsonSelector
SelectorConfig = Deterministic | Drawing


def leaves_to_chance(config: SelectorConfig) -> bool:
    """Whether this selector draws, and tells with which probability."""
    return isinstance(config, Drawing)


def select(config: SelectorConfig, candidates: Candidates, choosing: Choosing) -> Candidates:
    """What this selector gives on, at most `choosing.n`."""
    match config:
        case TopKSelector():
            return top_k(candidates, choosing.n)
        case MMRSelector():
            return mmr(config, candidates, choosing)
        case DPPSelector():
            return dpp(config, candidates, choosing)
        case QuotaSelector():
            return quota(config, candidates, choosing)
        case PlacesSelector():
            return places(config, candidates, choosing)
        case CalibratedSelector():
            return calibrated(config, candidates, choosing)
        case EpsilonSelector():
            return epsilon_greedy(config, candidates, choosing)
        case SoftmaxSelector():
            return softmax(config, candidates, choosing)
        case ThompsonSelector():
            return thompson(config, candidates, choosing)
