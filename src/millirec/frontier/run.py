"""`run`: a whole frontier, from its config to what it leaves on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from millirec.compress.workshop import Workshop
from millirec.frontier.check import check_variant
from millirec.frontier.config import FrontierConfig
from millirec.frontier.explore import explore
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.outcome import alone_in, leave
from millirec.frontier.pace import Watcher
from millirec.frontier.result import Frontier
from millirec.frontier.search import Searched
from millirec.frontier.study import search
from millirec.models.checkpoint import Checkpoint


def run(
    config: FrontierConfig,
    teacher: Checkpoint,
    workshop: Workshop,
    watcher: Watcher,
    write: Callable[[Any], str],
) -> tuple[Frontier, Path]:
    """What was found, and the folder of the chosen bundle (or of the nearest). `check` comes first.

    Everything lies below `<out>/<name>/`; what an earlier run has finished there is taken up. A search comes first,
    and its finalists join the variants. `write`: plain data as TOML. Raises ConfigError when another run works there.
    """
    folder = Path(config.out) / config.name
    with alone_in(folder):
        searched, config = _searched(config, teacher, workshop, watcher)
        laboratory = Laboratory(teacher, workshop, config.measure, folder / "cache", config.pack, config.ranker)
        try:
            found = msgspec.structs.replace(explore(config, laboratory, watcher, write), search=searched)
            name = found.choice.chosen or found.choice.nearest
            variant = next(one for one in (laboratory.teacher, *config.variants) if one.name == name)
            return found, leave(found, laboratory.bundle(variant), variant.engine, folder)
        finally:
            laboratory.close()


def _searched(
    config: FrontierConfig, teacher: Checkpoint, workshop: Workshop, watcher: Watcher
) -> tuple[Searched | None, FrontierConfig]:
    if config.search is None:
        return None, config
    found, finalists = search(
        config,
        teacher,
        workshop,
        watcher,
        lambda variant: check_variant(variant, config, teacher.config, workshop.dataset, repeats=workshop.repeats),
    )
    return found, msgspec.structs.replace(config, search=None, variants=(*config.variants, *finalists))
