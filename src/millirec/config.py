"""`RunConfig`: the sections that the rooms define, composed. TOML in, TOML out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from millirec.data.errors import ConfigError, MillirecError
from millirec.data.sources import SourceConfig
from millirec.data.split import LeaveLastOut, SplitConfig
from millirec.models.config import ModelConfig
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run: which data, split how, which model, trained how, on what machine.

    The results go to `<out>/<name>/`.
    """

    data: SourceConfig
    model: ModelConfig
    name: str = "run"
    split: SplitConfig = LeaveLastOut()
    train: TrainConfig = TrainConfig()
    machine: Machine = Machine()
    out: str = "runs"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"$.name = {self.name!r}", "use letters, digits, '.', '_' and '-'")


def load(path: Path) -> RunConfig:
    """Read a run's TOML. Raises ConfigError with the path of the field, such as `$.model.embedding_dim`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})", "mend the line") from error
    run: RunConfig = convert(raw, RunConfig, str(path))
    return run


def convert(raw: Any, kind: Any, where: str) -> Any:
    """Plain data as a config. Raises ConfigError that names the field's path."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        # msgspec wraps what __post_init__ raises; ours already names field and mend.
        if isinstance(error.__cause__, MillirecError):
            raise error.__cause__ from None
        raise ConfigError(f"{where}: {error}", "see docs/configuration.md for the fields") from error


def dumps(config: Any) -> str:
    """A config as TOML; `load` of it gives the same config. Fields that are None are left out."""
    return "\n".join(_table(msgspec.to_builtins(config), ())).strip() + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"\n[{'.'.join(path)}]"] if path else []
    plain = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, _key(key)))
    return lines


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
