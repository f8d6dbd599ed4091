"""Engine settings and cascades from TOML files."""

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from millirec.data.errors import ConfigError, MillirecError

T = TypeVar("T")


def read(path: Path, kind: type[T], name: str, mend: str) -> T:
    """The struct that a TOML file holds.

    Raises ConfigError that begins with `name`, the words for the file, and tells the field; `mend` where the field
    itself does not tell.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})", "check the path") from error
    except MillirecError as error:
        raise ConfigError(f"{name}: {error.problem}", error.mend) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        if isinstance(cause := error.__cause__, MillirecError):
            raise ConfigError(f"{name}: {cause.problem}", cause.mend) from error
        raise ConfigError(f"{name}: {error}", mend) from error
