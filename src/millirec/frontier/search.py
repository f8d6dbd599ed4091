"""`Search`: what is left open in a variant, what it is sought for, and for how long."""

from typing import Any, Literal

import msgspec

from millirec.data.errors import ConfigError
from millirec.frontier.space import opened

Objective = Literal["quality", "p99_ms", "requests_per_second", "memory_mb", "bundle_mb"]

UPWARDS: frozenset[str] = frozenset({"quality", "requests_per_second"})
"""The objectives of which more is better."""


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Optuna's search (Akiba et al., KDD 2019; by tree-structured Parzen estimators) before the frontier is measured.

    `variant`: a variant without a name; a value, list or table in it may be `{ choose = [...] }` or
    `{ low = .., high = .. }` (with `log`, `step`). `trials`: how many are tried in all, `minutes`: when no other is
    begun. `objectives`: what is sought; limits and gate of the frontier are kept as constraints. A trial is judged on
    the validation part, loaded in `rounds` rounds if its speed matters. `prune` ends a training that is worse than the
    median of the earlier ones at the same point (with quality as the only objective). The best `finalists` become
    variants.
    """

    variant: dict[str, Any]
    trials: int = 30
    minutes: float | None = None
    objectives: tuple[Objective, ...] = ("quality",)
    rounds: int = 1
    prune: bool = True
    finalists: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("trials", 100_000), ("rounds", 100), ("finalists", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"$.search.{name} = {getattr(self, name)}", f"choose 1 to {most}")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ConfigError(f"$.search.minutes = {self.minutes}", "choose a number above 0, or leave it out")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ConfigError(f"$.search.objectives = {list(self.objectives)}", "name at least one, and each once")
        if "name" in self.variant:
            raise ConfigError("$.search.variant.name", "leave it out: trials are named by their number")
        if not list(opened(self.variant, "$.search.variant")):
            raise ConfigError(
                "$.search.variant leaves nothing open", "write { choose = [...] } or { low = .., high = .. } somewhere"
            )

    @property
    def prunes(self) -> bool:
        """Whether trainings are ended early: only where quality alone is sought can a training show what it will be."""
        return self.prune and self.objectives == ("quality",)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: `settings` = what was drawn for each open place, `figures` = what was measured of it.

    `state`: "complete", "pruned" (ended early), "refused" (settings that do not go together). `misses`: by how much it
    fails a limit, as a share. `note`: why it ended.
    """

    number: int
    state: Literal["complete", "pruned", "refused"]
    settings: dict[str, Any]
    figures: dict[str, float]
    misses: dict[str, float]
    note: str = ""


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """All trials in their order, and the numbers of the `finalists`, the best first."""

    trials: tuple[Trial, ...]
    finalists: tuple[int, ...]
