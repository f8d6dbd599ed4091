"""`Loaded`: one bundle ready to answer, and what the store knows of its items. `Engine.swap` replaces it whole."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millirec.bundle import Bundle
from millirec.cascade.cascade import Cascade, CascadeConfig, check_rankers
from millirec.cascade.extra import Extra
from millirec.cascade.query import Shelf
from millirec.engine.ledger import Update
from millirec.engine.members import Members
from millirec.engine.ranker import LiveRanker
from millirec.engine.settings import EngineSettings
from millirec.engine.state import AT_ONCE, Snapshot, StateStore
from millirec.engine.tally import Tally
from millirec.models import counts

Mask = NDArray[np.bool_]


class Loaded:
    """A bundle's models and cascade, and two views of the store that grow as the store does:

    `rows` int32 (codes + 1,) maps item codes of stored histories to rows of this bundle, 0 = unknown to it;
    `available` bool (n_items + 1,) or None says which items are not taken down. `cascade` takes the place of the
    bundle's own. `ranker`, `pre_ranker` and `tally`, which follow the log: None where the cascade has no use for them.
    """

    def __init__(self, bundle: Bundle, settings: EngineSettings, cascade: CascadeConfig | None = None) -> None:
        self.bundle, self._settings = bundle, settings
        self.members = Members(bundle.parts, settings)
        self.shelf = Shelf(bundle.catalog, bundle.index, bundle.popularity)
        self.cascade = Cascade(cascade or bundle.cascade, self.shelf)
        has = bundle.ranker is not None, bundle.pre_ranker is not None
        check_rankers(self.cascade.config, has_ranker=has[0], has_pre_ranker=has[1])
        self.tables, self.gains = [table for table, _ in bundle.counts], [gain for _, gain in bundle.counts]
        self.ranker: LiveRanker | None = None
        self.pre_ranker: LiveRanker | None = None
        bandit = self.cascade.bandit
        self.tally = None if bandit is None else Tally(bandit, bundle.catalog.vocabulary)
        self.rows = np.zeros(1, np.int32)
        self.available: Mask | None = None
        self.version = 0
        self._down: set[int] = set()
        self._lock = threading.Lock()

    def gained(self, history: NDArray[np.int32]) -> Extra | None:
        """What was counted adds to the scores of items after a history (n,) of rows; None where nothing was."""
        return Extra(*counts.gained(self.tables, self.gains, history)) if self.tables else None

    def load_rankers(self) -> None:
        """Make those ready that the cascade asks."""
        config, bundle, settings = self.cascade.config, self.bundle, self._settings
        if config.ranker is not None and bundle.ranker is not None:
            self.ranker = LiveRanker(bundle.ranker, settings.threads, settings.ranker_users)
        if config.pre_ranker is not None and bundle.pre_ranker is not None:
            self.pre_ranker = LiveRanker(bundle.pre_ranker, settings.threads, settings.ranker_users)

    @property
    def entries_from(self) -> int | None:
        """From where on the log must be read; None when nothing follows it."""
        following = self.ranker, self.pre_ranker, self.tally
        return min((one.at for one in following if one is not None), default=None)

    def follow(self, store: StateStore, snapshot: Snapshot | None = None) -> None:
        """Let ranker and tally see the events that the log has, those that a snapshot has brought first."""
        while (start := self.entries_from) is not None:
            if snapshot is None:
                snapshot = store.read([], 1 << 62, 1 << 62, start)
            for ranker in (self.pre_ranker, self.ranker):
                if ranker is not None:
                    ranker.take(snapshot.entries, store.clock())
            if self.tally is not None:
                self.tally.take(snapshot.entries)
            if len(snapshot.entries) < AT_ONCE:
                return
            snapshot = None

    def catch_up(self, snapshot: Snapshot) -> None:
        """Take in the items and updates that a snapshot has found new."""
        codes, version = snapshot.counters.codes, snapshot.counters.version
        with self._lock:
            new = codes + 1 - len(self.rows)
            if new > 0:
                rows = self.bundle.catalog.vocabulary.rows(snapshot.names[-new:])
                self.rows = np.concatenate([self.rows, rows])
            if version > self.version:
                self._update(snapshot.updates)
                self.version = version

    def _update(self, updates: Sequence[Update]) -> None:
        """Newest fields win: `available` takes items down and up, newer fields override the catalogue's."""
        row_of = self.bundle.catalog.vocabulary.row
        for item, fields in updates:
            row = row_of(item)
            if not row:
                continue
            if fields.get("available") is False:
                self._down.add(row)
            else:
                self._down.discard(row)
            self.shelf.fields.update(row, fields)
        mask = np.ones(self.shelf.n_items + 1, np.bool_)
        mask[list(self._down)] = False
        self.available = mask if self._down else None
