"""`RunConfig` and `RankerRun`: the sections that the rooms define, composed. TOML in, TOML out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from millirec.data.errors import ConfigError, MillirecError
from millirec.data.features import FieldConfig, RowSplit, check_fields
from millirec.data.features.config import SequenceField
from millirec.data.labels import LabelConfig
from millirec.data.mend import mend_of
from millirec.data.sources import ImpressionsConfig, SequenceFileConfig, SourceConfig
from millirec.data.split import GlobalTime, LeaveLastOut, SplitConfig
from millirec.data.thin import ThinConfig
from millirec.models.base import ClosedForm
from millirec.models.config import ModelConfig, build
from millirec.models.rankers.config import RankerConfig
from millirec.models.rankers.din import DINConfig
from millirec.models.rankers.mmoe import MMoEConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.candidates import CandidateConfig
from millirec.train.fine_tune import WarmStart
from millirec.train.grow import check_grown
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.trainable import check_dense, check_trainable
from millirec.train.trainer import TrainConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run: which data, split how, thinned how, which model, trained how, on what machine.

    The results go to `<out>/<name>/`.
    """

    data: SourceConfig
    model: ModelConfig
    name: str = "run"
    split: SplitConfig = LeaveLastOut()
    thin: ThinConfig | None = None
    train: TrainConfig = TrainConfig()
    machine: Machine = Machine()
    warm_start: WarmStart | None = None
    out: str = "runs"

    def __post_init__(self) -> None:
        _check_name(self.name)
        check(self)


class RankerRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run of a feature ranker: which data, what a success is, which features, which ranker.

    A TOML with a section [ranker] in the place of [model]. The results go to `<out>/<name>/`. `retrieval`: the folder
    of a model's checkpoint whose `candidates` become the rows; None = the rows of the log do.
    """

    data: SourceConfig
    label: LabelConfig
    features: tuple[FieldConfig, ...]
    ranker: RankerConfig
    retrieval: str | None = None
    candidates: CandidateConfig | None = None
    name: str = "run"
    split: RowSplit = GlobalTime()
    train: RankTrainConfig = RankTrainConfig()
    machine: Machine = Machine()
    out: str = "runs"

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_fields(self.features)
        if isinstance(self.ranker, DINConfig) and not any(isinstance(f, SequenceField) for f in self.features):
            raise ConfigError("$.ranker.kind = 'din': no feature is a sequence", "declare one of kind 'sequence'")
        if isinstance(self.data, SequenceFileConfig):
            raise ConfigError("$.data.kind = 'sequences': events have no values to learn from", "use another source")
        unknown = (
            sorted(self.ranker.serve.keys() - set(self.label.names)) if isinstance(self.ranker, MMoEConfig) else []
        )
        if unknown:
            raise ConfigError(f"$.ranker.serve names {unknown}", f"choose among {', '.join(self.label.names)}")
        if isinstance(self.ranker, TreesConfig):
            check_grown(self.train)
        _check_candidates(self)


def _check_candidates(run: RankerRun) -> None:
    if run.retrieval is None:
        if run.candidates is not None:
            raise ConfigError("$.candidates without $.retrieval", "name the checkpoint of the model that finds them")
        return
    if not isinstance(run.split, GlobalTime):
        raise ConfigError(
            "$.retrieval: candidates are those of events that the model has not learned from",
            'set $.split.kind = "global-time", and train the model under it as well',
        )
    if isinstance(run.data, ImpressionsConfig):
        raise ConfigError("$.retrieval with $.data.kind = 'impressions'", "learn from what was shown, or from a log")
    if run.label.tasks:
        raise ConfigError("$.label.tasks with $.retrieval: of a candidate only is known whether it was taken", _ALONE)
    if run.train.propensities is not None:
        raise ConfigError("$.train.propensities with $.retrieval: candidates were not drawn", _ALONE)


_ALONE = "leave it out, or learn from the rows of the log"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"$.name = {name!r}", "use letters, digits, '.', '_' and '-'")


def check(run: RunConfig) -> None:
    """What no section can see by itself. Raises ConfigError for a run that cannot work, before any data is read."""
    gradient_only = {"$.train.adversarial": run.train.adversarial, "$.warm_start": run.warm_start}
    for path, asked in gradient_only.items():
        if asked is not None and isinstance(build(run.model, 1), ClosedForm):
            kind = msgspec.to_builtins(run.model)["kind"]
            raise ConfigError(
                f"{path}: $.model.kind = {kind!r} is fitted at once, not trained by gradient",
                f"leave {path} out, or choose a sequence model",
            )
    if isinstance(run.data, ImpressionsConfig):
        raise ConfigError("$.data.kind = 'impressions': what was shown is no history", "use 'log', or train a [ranker]")
    check_trainable(run.model, run.train)
    build(run.model, 1)  # refuses an item table that does not fit the width
    if run.warm_start is not None and run.warm_start.frozen_epochs:
        check_dense(run.model, "$.warm_start.frozen_epochs")
    if run.warm_start is not None and run.warm_start.frozen_epochs and run.train.sparse_rows:
        raise ConfigError("$.train.sparse_rows: rows cannot be frozen", "set $.warm_start.frozen_epochs = 0")
    if isinstance(run.data, SequenceFileConfig) and not run.data.test and isinstance(run.split, GlobalTime):
        raise ConfigError("$.split.kind = 'global-time': sequences tell no times", "use 'leave-last-out'")


def load(path: Path) -> RunConfig:
    """Read a run's TOML. Raises ConfigError with the path of the field, such as `$.model.embedding_dim`."""
    run = load_run(path)
    if isinstance(run, RankerRun):
        raise ConfigError(f"{path}: has a [ranker], and no [model]", "give the config of a model")
    return run


def load_run(path: Path) -> RunConfig | RankerRun:
    """Read the TOML of a run of either kind: it has a section [model], or a section [ranker]."""
    raw = read_toml(path)
    if "model" in raw and "ranker" in raw:
        raise ConfigError(f"{path}: both [model] and [ranker]", "make two runs of it")
    run: RunConfig | RankerRun = convert(raw, RankerRun if "ranker" in raw else RunConfig, str(path))
    return run


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})", "mend the line") from error


def convert(raw: Any, kind: Any, where: str) -> Any:
    """Plain data as a config. Raises ConfigError that names the field's path."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        # msgspec wraps what __post_init__ raises; ours already names field and mend.
        if isinstance(error.__cause__, MillirecError):
            raise error.__cause__ from None
        mend = mend_of(error, raw, kind, "see docs/configuration.md for the fields")
        raise ConfigError(f"{where}: {error}", mend) from error


def dumps(config: Any) -> str:
    """A config as TOML; `load` of it gives the same config. Fields that are None are left out."""
    return "\n".join(_table(msgspec.to_builtins(config), ())).strip() + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...], *, row: bool = False) -> list[str]:
    head = ".".join(path)
    lines = [f"\n[[{head}]]" if row else f"\n[{head}]"] if path else []
    plain = {key: value for key, value in table.items() if not (value is None or isinstance(value, dict))}
    rows = {key: value for key, value in plain.items() if _are_tables(value)}
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items() if key not in rows]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, _key(key)))
    for key, value in rows.items():
        for entry in value:
            lines += _table(entry, (*path, _key(key)), row=True)
    return lines


def _are_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, float):
        return repr(value)
    # Strings, integers and booleans are written in TOML as in JSON.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
