"""`Examination`: the same held-out questions for every bundle, put through the engine that serves."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from millirec.bundle import Bundle
from millirec.data.dataset import TEST, VALIDATION, Dataset
from millirec.data.errors import DataError
from millirec.data.folder import new_folder
from millirec.data.history import HistoryLimits
from millirec.data.split import Targets, targets
from millirec.engine.engine import Engine
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore, StoreSettings
from millirec.frontier.cache import Cache, key_of
from millirec.frontier.config import Measure
from millirec.frontier.replay import ask, feed
from millirec.train.machine import generator

_FILE = "answers.safetensors"


@dataclass(frozen=True, slots=True)
class Answers:
    """What a bundle answered, in the order of the questions.

    `ranks` int64 (t,): the place of each target, 1 = first, as in `Replay`. `top` int32 (t, 10): the lists, 0 where
    shorter. `users` int32 (t,): who was asked.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int32]
    users: NDArray[np.int32]


class Examination:
    """The questions of one part of the data, and stores that know what came before them.

    A store is fed once for each length of history, then copied for each bundle. They lie in `folder`, which is emptied
    at the start, since a killed run leaves it behind, and deleted by `close`.
    """

    def __init__(self, dataset: Dataset, measure: Measure, folder: Path, *, repeats: bool) -> None:
        """Raises DataError when the part asks nothing."""
        self.dataset, self.repeats = dataset, repeats
        role = TEST if measure.part == "test" else VALIDATION
        self._everyone = targets(dataset, role, repeats=repeats)
        self.asked = _sampled(self._everyone, measure)
        if not len(self.asked):
            raise DataError(f"no targets under {dataset.protocol}", "measure another part, or split the data otherwise")
        drawn = (measure.users, measure.seed) if measure.users else ()
        self.key = key_of(dataset.fingerprint, dataset.protocol, measure.part, repeats, drawn)
        self._folder = folder
        self.close()

    @property
    def users(self) -> NDArray[np.int32]:
        """Who is asked, int32 (t,)."""
        return self.dataset.sequences.users[self.asked.places]

    def take(self, bundle: Bundle, settings: EngineSettings, cache: Cache) -> Answers:
        """The answers of a bundle, kept under its content hash."""
        folder = cache.place("answers", self.key_for(bundle.manifest.content_hash, settings))
        if not folder.exists():
            answers = self._asked(bundle, settings)
            with new_folder(folder) as new:
                save_file({"ranks": answers.ranks, "top": answers.top, "users": answers.users}, new / _FILE)
        return Answers(**load_file(folder / _FILE))

    def key_for(self, content_hash: str, settings: EngineSettings) -> str:
        """The key of a bundle's answers."""
        return key_of(self.key, content_hash, settings)

    def close(self) -> None:
        """Delete the stores."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _asked(self, bundle: Bundle, settings: EngineSettings) -> Answers:
        limits = HistoryLimits().covering(bundle.max_length)
        rules = StoreSettings(limits=limits, sync=False)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as copy:
            if bundle.cascade.ranker is not None:  # its features read everybody's events, in order of time
                with StateStore(Path(copy), rules) as store:
                    engine = Engine(bundle, store, settings)
                    feed(store, self.dataset, self._everyone, in_time=True)
                    seen = ask(engine, self.dataset, self._everyone, repeats=self.repeats, only=self.asked)
                return Answers(seen.ranks, np.ascontiguousarray(seen.top[:, :10]), self.users)
            shutil.copytree(self._fed(rules), copy, dirs_exist_ok=True)
            with StateStore(Path(copy), rules) as store:
                seen = ask(Engine(bundle, store, settings), self.dataset, self.asked, repeats=self.repeats)
        return Answers(seen.ranks, np.ascontiguousarray(seen.top[:, :10]), self.users)

    def _fed(self, rules: StoreSettings) -> Path:
        folder = self._folder / f"fed-{rules.limits.window}"
        if not folder.exists():
            with new_folder(folder) as new, StateStore(new, rules) as store:
                feed(store, self.dataset, self.asked)
        return folder


def _sampled(asked: Targets, measure: Measure) -> Targets:
    """All targets of `measure.users` users drawn at random; 0 = of all. A user is known by where he starts."""
    starts = np.unique(asked.starts)
    if not measure.users or len(starts) <= measure.users:
        return asked
    drawn = generator(measure.seed, 40).choice(starts, measure.users, replace=False)
    kept = np.isin(asked.starts, drawn)
    return Targets(asked.places[kept], asked.starts[kept], asked.n_repeats, asked.n_cold)
