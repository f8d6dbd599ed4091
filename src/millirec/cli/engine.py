"""Engine settings and cascades from TOML files, for the commands that answer questions. Needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millirec.cascade.cascade import CascadeConfig
    from millirec.engine.settings import EngineSettings


def engine_settings(path: Path | None) -> "EngineSettings":
    """The settings in `path`, the defaults without one. Raises ConfigError that names the file and the field."""
    from millirec.engine.settings import EngineSettings
    from millirec.engine.toml import read

    if path is None:
        return EngineSettings()
    return read(path, EngineSettings, f"--engine {path}", "see the engine settings in docs/frontier.md")


def cascade_config(path: Path | None) -> "CascadeConfig | None":
    """The cascade in `path`, None without one. Raises ConfigError that names the file and the field."""
    from millirec.cascade.cascade import CascadeConfig
    from millirec.engine.toml import read

    if path is None:
        return None
    return read(path, CascadeConfig, f"--cascade {path}", "see docs/cascade.md for the fields")
