"""Engine settings and cascades from TOML files, for the commands that answer questions. Needs no torch."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from millirec.data.errors import ConfigError, MillirecError

if TYPE_CHECKING:
    from millirec.cascade.cascade import CascadeConfig
    from millirec.engine.settings import EngineSettings


T = TypeVar("T")


def engine_settings(path: Path | None) -> "EngineSettings":
    """The settings in `path`, the defaults without one. Raises ConfigError that names the file and the field."""
    from millirec.engine.settings import EngineSettings

    if path is None:
        return EngineSettings()
    return _read(path, EngineSettings, "--engine", "see the engine settings in docs/frontier.md")


def cascade_config(path: Path | None) -> "CascadeConfig | None":
    """The cascade in `path`, None without one. Raises ConfigError that names the file and the field."""
    from millirec.cascade.cascade import CascadeConfig

    return None if path is None else _read(path, CascadeConfig, "--cascade", "see docs/cascade.md for the fields")


def _read(path: Path, kind: type[T], option: str, mend: str) -> T:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read ({error.strerror})", "check the path") from error
    except MillirecError as error:
        raise ConfigError(f"{option} {path}: {error.problem}", error.mend) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        if isinstance(cause := error.__cause__, MillirecError):
            raise ConfigError(f"{option} {path}: {cause.problem}", cause.mend) from error
        raise ConfigError(f"{option} {path}: {error}", mend) from error
