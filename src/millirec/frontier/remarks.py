"""What a reader of the figures should be told of a variant."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from millirec.frontier.config import Variant
from millirec.frontier.result import Figures

_MANY_ZEROS = 0.05  # more than the teacher has
_INTEGER = ("Integer", "QLinear", "QGemm", "QAttention", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


def remarks(variant: Variant, figures: Figures, teacher: Figures, spread: float) -> Iterator[str]:
    """Sentences; none when nothing is odd. `spread`: by how much (a share) equal speeds may differ."""
    yield from (f"noisy: {reason}" for reason in figures.speed.noisy)
    if figures.speed.errors:
        told = ", ".join(f"{n:,} x {status}" for status, n in figures.speed.errors.items())
        yield f"errors under load: {told}"
    if _claims_integers(figures.model) and not _has_integers(figures.kernels):
        yield "its config says int8, but its graphs hold no integer operator"
    ranker = figures.ranker
    if ranker and (ranker.weights == "int8" or _claims_integers(ranker.model)) and not _has_integers(ranker.kernels):
        yield "its ranker says int8, but the ranker's graphs hold no integer operator"
    if not (variant.steps or variant.checkpoint or variant.beside) and variant.ranker is True:
        return
    own, reference = (one.speed.requests_per_second.median for one in (figures, teacher))
    faster = own > reference * (1 + spread)
    if figures.zeros > teacher.zeros + _MANY_ZEROS and not faster:
        yield f"{figures.zeros:.0%} of its parameters are 0 and bring no speed: they save bytes only"
    before = teacher.ranker.zeros if teacher.ranker else 0.0
    if ranker and ranker.zeros > before + _MANY_ZEROS and not faster:
        yield f"{ranker.zeros:.0%} of its ranker's parameters are 0 and bring no speed: they save bytes only"
    if own < reference * (1 - spread):
        yield f"it answers fewer requests/s than the teacher: {own:,.0f} against {reference:,.0f}"
    if figures.bundle_bytes >= teacher.bundle_bytes:
        yield "its bundle is no smaller than the teacher's"


def _claims_integers(model: Mapping[str, Any]) -> bool:
    return str(model.get("weights", "")).startswith("int8")


def _has_integers(kernels: Iterable[str]) -> bool:
    return any(word in name for name in kernels for word in _INTEGER)
