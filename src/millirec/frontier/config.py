"""`FrontierConfig`: which variants are made and measured, and within which limits the best is chosen."""

import re
from typing import Any, Literal

import msgspec

from millirec.bundle import PackConfig
from millirec.compress.rankers.recipe import RankerStep
from millirec.compress.recipe import StepConfig
from millirec.data.errors import ConfigError
from millirec.data.sources import SourceConfig
from millirec.data.split import SplitConfig
from millirec.engine.settings import EngineSettings
from millirec.frontier.search import Search
from millirec.train.machine import Machine

TEACHER = "teacher"
"""The name of the first variant: the model that all others are held against."""

TRIAL = "trial-"
"""How the names of variants begin that a search has found; their number follows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class VariantRanker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ranker of a variant, its second stage.

    `checkpoint`: the folder that it starts from, None = the frontier's ranker. `steps`: what is done to it, as in a
    recipe for rankers; none = as it is. `weights`: in which numbers its hidden layers compute once it is packed.
    `pre_ranker`: the folder of a cheaper ranker, packed as it is, that chooses its candidates.
    """

    checkpoint: str | None = None
    pre_ranker: str | None = None
    steps: tuple[RankerStep, ...] = ()
    weights: Literal["fp32", "int8"] = "fp32"


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to be packed and measured.

    `checkpoint`: the folder that it starts from, None = the teacher. `steps`: what is done to it, as in a recipe;
    none = as it is. `beside`: folders of baselines whose counts add to its scores, by gains that are fitted on the
    validation part; they rule a ranker out. `ranker`: its second stage; true = the frontier's, where that has one,
    false = none. `pack` (None = as the frontier's) and `engine`: how it is packed and served.
    """

    name: str
    checkpoint: str | None = None
    steps: tuple[StepConfig, ...] = ()
    beside: tuple[str, ...] = ()
    ranker: VariantRanker | bool = True
    pack: PackConfig | None = None
    engine: EngineSettings = EngineSettings()

    def __post_init__(self) -> None:
        check_name("$.variants.name", self.name)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the chosen bundle must keep to; None = no limit.

    `max_p99_ms`: milliseconds until 99 % of the answers are there. `max_memory_mb`: resident memory (MiB) of the
    server under load. `max_bundle_mb`: megabytes (10^6 bytes) on disk. `min_quality`: NDCG@10; `min_quality_share`:
    as a share of the teacher's.
    """

    max_p99_ms: float | None = None
    max_memory_mb: float | None = None
    max_bundle_mb: float | None = None
    min_quality: float | None = None
    min_quality_share: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            most = {"min_quality": 1.0, "min_quality_share": 2.0}.get(name, float("inf"))
            if value is not None and not 0 < value <= most:
                bound = "" if most == float("inf") else f", at most {most:g}"
                raise ConfigError(f"$.limits.{name} = {value}", f"choose a number above 0{bound}, or leave it out")


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How quality and speed are measured.

    Quality: `part` of the data, `users` drawn at random from it (0 = all). Speed: `rounds` over all variants; in
    each, after `warm_up` seconds, `seconds` under full load from `connections`, and as long again at `rate` requests
    a second for the latencies (None = one request at a time: no queue). `ask`: "users" = stored users, `known_users`
    of them with a history of `history` events each; "histories" = the history comes with the request; "mixed" = an
    event, then a question of its user. `core`: where the server is pinned, "auto" = the first, "none" = nowhere. A
    variant whose repeated figures differ by more than `spread` (a share) is marked noisy.
    """

    part: Literal["test", "validation"] = "test"
    users: int = 0
    rounds: int = 3
    seconds: float = 3.0
    warm_up: float = 1.0
    connections: int = 32
    rate: float | None = None
    ask: Literal["users", "histories", "mixed"] = "users"
    known_users: int = 200
    history: int = 50
    k: int = 10
    core: int | Literal["auto", "none"] = "auto"
    spread: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "users": (0, 10**9), "rounds": (1, 1000), "seconds": (0.1, 3600), "warm_up": (0, 600),
            "connections": (1, 1024), "known_users": (1, 100_000), "history": (1, 10_000), "k": (1, 1000),
            "spread": (0.001, 1), "seed": (0, 2**31),
        }  # fmt: skip
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"$.measure.{name} = {getattr(self, name)}", f"choose {least:g} to {most:g}")
        if self.rate is not None and not 0 < self.rate < 1e6:
            raise ConfigError(f"$.measure.rate = {self.rate}", "choose a number above 0, or leave it out")
        if isinstance(self.core, int) and self.core < 0:
            raise ConfigError(f"$.measure.core = {self.core}", 'choose a core from 0, "auto" or "none"')


class FrontierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One frontier: a teacher, its variants, limits, and how all is measured.

    `teacher`: a checkpoint's folder, or a run's TOML that is trained first. `data`, `split`, `repeats`: where they
    are to differ from what the teacher says of itself (the data moved). `gate`: a variant is chosen only when the
    lower bound of the quality that it keeps, as a share of the teacher's NDCG@10, is at least this. `search`: variants
    that are sought first, of which the best are added to the others. `ranker`: the folder of a trained ranker, the
    second stage of the teacher and of every variant that does not say; None = retrieval alone. `pack`: how the teacher
    is packed, and every variant that does not say. The results go to `<out>/<name>/`.
    """

    teacher: str
    name: str = "frontier"
    out: str = "frontiers"
    data: SourceConfig | None = None
    split: SplitConfig | None = None
    repeats: bool | None = None
    variants: tuple[Variant, ...] = ()
    limits: Limits = Limits()
    measure: Measure = Measure()
    machine: Machine = Machine()
    gate: float | None = None
    search: Search | None = None
    ranker: str | None = None
    pack: PackConfig = PackConfig()

    def __post_init__(self) -> None:
        check_name("$.name", self.name)
        if self.gate is not None and not 0 < self.gate <= 2:
            raise ConfigError(f"$.gate = {self.gate}", "choose a share of the teacher's quality, such as 0.99")
        names = [TEACHER, *(variant.name for variant in self.variants)]
        for i, name in enumerate(names[1:]):
            if name == TEACHER:
                raise ConfigError(f'$.variants[{i}].name = "{TEACHER}"', "choose another: the teacher is always there")
            if name in names[1 : i + 1]:
                raise ConfigError(f"$.variants[{i}].name = {name!r} stands twice", "choose a name of its own")
            if self.search is not None and name.startswith(TRIAL):
                raise ConfigError(
                    f"$.variants[{i}].name = {name!r}", "choose another: trials of the search are so named"
                )

    def only(self, name: str) -> dict[str, Any]:
        """Plain data of the config that makes and measures one variant again (and the teacher, which is always)."""
        plain: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(self, search=None))
        plain["variants"] = [msgspec.to_builtins(variant) for variant in self.variants if variant.name == name]
        for variant in plain["variants"]:
            for field, default in (
                ("steps", ()),
                ("beside", ()),
                ("ranker", True),
                ("pack", None),
                ("engine", EngineSettings()),
            ):
                if variant[field] == msgspec.to_builtins(default):
                    del variant[field]
        if self.pack == PackConfig():
            del plain["pack"]
        return plain


def check_name(where: str, name: str) -> None:
    """Names become folders and stand in reports."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where} = {name!r}", "use letters, digits, '.', '_' and '-'")
