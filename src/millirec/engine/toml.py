"""Engine settings and cascades from TOML files."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from millirec.data.errors import ConfigError, MillirecError
from millirec.data.mend import mend_of

T = TypeVar("T")


def read(path: Path, kind: type[T], name: str, mend: str) -> T:
    """The struct that a TOML file holds.

    Raises ConfigError that begins with `name`, the words for the file, and tells the field; `mend` where neither the
    field itself nor its neighbours tell.
    """
    raw = _raw(path, name, mend)
    try:
        return msgspec.convert(raw, kind)
    except MillirecError as error:
        raise ConfigError(f"{name}: {error.problem}", error.mend) from error
    except msgspec.ValidationError as error:
        if isinstance(cause := error.__cause__, MillirecError):
            raise ConfigError(f"{name}: {cause.problem}", cause.mend) from error
        raise ConfigError(f"{name}: {error}", mend_of(error, raw, kind, mend)) from error


def _raw(path: Path, name: str, mend: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {error}", mend) from error
