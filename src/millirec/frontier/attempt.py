"""`Attempt`: one trial of a search, made and measured as far as is worth it."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from millirec.data.errors import ConfigError, MillirecError
from millirec.data.mend import mend_of
from millirec.frontier.config import TRIAL, FrontierConfig, Variant
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.quality import NDCG
from millirec.frontier.result import Figures
from millirec.frontier.search import Search, Trial
from millirec.frontier.space import drawn
from millirec.train.journal import Journal

if TYPE_CHECKING:
    import optuna


class _Ended(Exception):  # noqa: N818 - no error: a trial that is not worth more time
    """Why a trial ends early."""


class Rival:
    """A journal that ends a training which does worse than others did; it passes the word on."""

    def __init__(self, inner: Journal) -> None:
        self._inner, self._seen = inner, 0
        self._trial: optuna.Trial | None = None

    def watch(self, trial: "optuna.Trial | None") -> None:
        """From here on validations are this trial's."""
        self._trial, self._seen = trial, 0

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """Pass on."""
        self._inner.epoch(number, n_batches, done)

    def batch(self, loss: float) -> None:
        """Pass on."""
        self._inner.batch(loss)

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """Pass on, then compare. Raises `_Ended`."""
        self._inner.validated(epoch, figures, best=best)
        if self._trial is None or NDCG not in figures:  # rankers are told by other figures
            return
        self._trial.report(figures[NDCG], self._seen)
        self._seen += 1
        if self._trial.should_prune():
            raise _Ended(f"worse than the median after {self._seen} validations: {NDCG} {figures[NDCG]:.4f}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Makes and measures one trial: what is cheap to know first, and no more once it is lost."""

    config: FrontierConfig
    search: Search
    laboratory: Laboratory
    rival: Rival
    check: Callable[[Variant], None]

    def __call__(self, trial: "optuna.Trial") -> tuple[Trial, MillirecError | None]:
        """What was found, and what it was refused for."""
        figures: dict[str, float] = {}
        misses: dict[str, float] = {}
        state: Literal["complete", "pruned", "refused"] = "complete"
        note, failure = "", None
        left = self._unfinished()
        try:
            plain = drawn(self.search.variant, trial)
            self._tried(_variant(plain, trial.number), trial, figures, misses)
        except _Ended as ended:
            state, note = "pruned", str(ended)
            for folder in self._unfinished() - left:  # of no use; what others have left is
                shutil.rmtree(folder, ignore_errors=True)
        except MillirecError as error:
            state, note, failure = "refused", str(error), error
        told = Trial(number=trial.number, state=state, settings=trial.params, figures=figures, misses=misses, note=note)
        return told, failure

    def variant(self, trial: Trial) -> Variant:
        """The variant of an earlier trial."""
        return _variant(drawn(self.search.variant, _Again(trial.settings)), trial.number)

    def _tried(
        self, variant: Variant, trial: "optuna.Trial", figures: dict[str, float], misses: dict[str, float]
    ) -> None:
        self.check(variant)
        self.rival.watch(trial if self.search.prunes else None)
        try:
            made = self.laboratory.make(variant)
        finally:
            self.rival.watch(None)
        self._measured({"bundle_mb": made.bytes / 1e6}, figures, misses)
        quality = self.laboratory.quality(variant)
        teacher = self.laboratory.quality(self.laboratory.teacher).figures[NDCG].value
        found = {"quality": quality.figures[NDCG].value, "kept_low": quality.kept.low or 0.0}
        found["quality_share"] = found["quality"] / teacher if teacher else 0.0
        self._measured(found, figures, misses)
        if self._wants_speed() and not misses:
            self._measured(_speed_of(self.laboratory.figures(variant)), figures, misses)

    def _measured(self, new: Mapping[str, float], figures: dict[str, float], misses: dict[str, float]) -> None:
        """Take down figures. Raises `_Ended` when a limit is missed and an objective is still unknown."""
        figures.update(new)
        misses.update(self._missed(new))
        if misses and not set(self.search.objectives) <= figures.keys():
            name = max(misses, key=lambda one: misses[one])
            raise _Ended(f"{name} is missed by {misses[name]:.1%}")

    def _missed(self, new: Mapping[str, float]) -> Iterator[tuple[str, float]]:
        limits: dict[str, float | None] = msgspec.to_builtins(self.config.limits) | {"gate": self.config.gate}
        for name, limit in limits.items():
            figure = _FIGURE_OF[name]
            if limit is None or figure not in new:
                continue
            excess = new[figure] / limit - 1 if name.startswith("max_") else 1 - new[figure] / limit
            if excess > 0:
                yield name, excess

    def _wants_speed(self) -> bool:
        limits = self.config.limits
        limited = limits.max_p99_ms is not None or limits.max_memory_mb is not None
        return limited or bool({"p99_ms", "requests_per_second", "memory_mb"} & set(self.search.objectives))

    def _unfinished(self) -> set[Path]:
        """Folders of trainings that did not come to their end."""
        return set((self.laboratory.folder / "steps").glob("*/progress"))


_FIGURE_OF = {
    "max_p99_ms": "p99_ms",
    "max_memory_mb": "memory_mb",
    "max_bundle_mb": "bundle_mb",
    "min_quality": "quality",
    "min_quality_share": "quality_share",
    "gate": "kept_low",
}


def _speed_of(figures: Figures) -> dict[str, float]:
    speed = figures.speed
    return {
        "p99_ms": speed.p99_ms.median,
        "requests_per_second": speed.requests_per_second.median,
        "memory_mb": speed.memory_mb.median,
    }


def _variant(plain: dict[str, Any], number: int) -> Variant:
    named = plain | {"name": f"{TRIAL}{number}"}
    try:
        return msgspec.convert(named, Variant)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, MillirecError):
            raise error.__cause__ from None
        mend = mend_of(error, named, Variant, "see docs/frontier.md for the fields")
        raise ConfigError(f"$.search.variant: {error}", mend) from error


class _Again:
    """Suggests what was drawn before."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """As before."""
        del choices
        return self._settings[name]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As before."""
        del low, high, step, log
        return int(self._settings[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As before."""
        del low, high, step, log
        return float(self._settings[name])
