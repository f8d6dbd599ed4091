"""`run`: a whole frontier, from its config to what it leaves on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from millirec.compress.workshop import Workshop
from millirec.frontier.config import FrontierConfig
from millirec.frontier.explore import explore
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.outcome import alone_in, leave
from millirec.frontier.pace import Watcher
from millirec.frontier.result import Frontier
from millirec.models.checkpoint import Checkpoint


def run(
    config: FrontierConfig,
    teacher: Checkpoint,
    workshop: Workshop,
    watcher: Watcher,
    write: Callable[[Any], str],
) -> tuple[Frontier, Path]:
    """What was found, and the folder of the chosen bundle (or of the nearest). `check` comes first.

    Everything lies below `<out>/<name>/`; what an earlier run has finished there is taken up. `write`: plain data as
    TOML. Raises ConfigError when another run works there.
    """
    folder = Path(config.out) / config.name
    with alone_in(folder):
        laboratory = Laboratory(teacher, workshop, config.measure, folder / "cache")
        try:
            found = explore(config, laboratory, watcher, write)
            name = found.choice.chosen or found.choice.nearest
            variant = next(one for one in (laboratory.teacher, *config.variants) if one.name == name)
            return found, leave(found, laboratory.bundle(variant), variant.engine, folder)
        finally:
            laboratory.close()
