"""Engine settings from a TOML file, for the commands that start a server. Needs no torch."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millirec.data.errors import ConfigError, MillirecError

if TYPE_CHECKING:
    from millirec.engine.settings import EngineSettings


def engine_settings(path: Path | None) -> "EngineSettings":
    """The settings in `path`, the defaults without one. Raises ConfigError that names the file and the field."""
    from millirec.engine.settings import EngineSettings

    if path is None:
        return EngineSettings()
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), EngineSettings)
    except OSError as error:
        raise ConfigError(f"--engine {path}: cannot be read ({error.strerror})", "check the path") from error
    except MillirecError as error:
        raise ConfigError(f"--engine {path}: {error.problem}", error.mend) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        if isinstance(cause := error.__cause__, MillirecError):
            raise ConfigError(f"--engine {path}: {cause.problem}", cause.mend) from error
        raise ConfigError(f"--engine {path}: {error}", "see the engine settings in docs/frontier.md") from error
