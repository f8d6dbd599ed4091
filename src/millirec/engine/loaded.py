"""`Loaded`: one bundle ready to answer, and what the store knows of its items. `Engine.swap` replaces it whole."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millirec.bundle import Bundle
from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Shelf
from millirec.engine.carry import Carry
from millirec.engine.ledger import Update
from millirec.engine.runner import Runner
from millirec.engine.state import Snapshot

Mask = NDArray[np.bool_]
_VECTORS_AT_ONCE = 65_536
_COMPARE_ALL = 100_000


class Loaded:
    """A bundle's runner and cascade, and two views of the store that grow as the store does:

    `carry` holds users' states when the model has some, None otherwise.

    `rows` int32 (codes + 1,) maps item codes of stored histories to rows of this bundle, 0 = unknown to it;
    `available` bool (n_items + 1,) or None says which items are not taken down. `cascade` takes the place of the
    bundle's own.
    """

    def __init__(self, bundle: Bundle, threads: int, cascade: CascadeConfig | None = None) -> None:
        self.bundle = bundle
        self.runner = Runner(bundle.encoder, bundle.inputs, threads, bundle.step)
        self.carry: Carry | None = None
        self.shelf = Shelf(bundle.catalog, bundle.index, bundle.popularity)
        self.cascade = Cascade(cascade or bundle.cascade, self.shelf)
        self.timed = bool({"times", "now"} & set(bundle.inputs))
        self.rows = np.zeros(1, np.int32)
        self.available: Mask | None = None
        self.version = 0
        self._down: set[int] = set()
        self._norms: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

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

    def cosines(self, row: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items by the cosine of their vectors with an item's, best first, without the item itself: rows, cosines.

        All items of a catalogue of up to 100,000; beyond, some 20 k of those with the best inner products.
        """
        index, n = self.shelf.index, self.shelf.n_items
        if n > _COMPARE_ALL:
            n = min(n, 20 * k + 1_000)
        norms = self._vector_norms()
        vector = index.vectors(np.array([row], np.int32)) / norms[row]
        matches = index.search(vector, n)
        rows, scores = matches.rows[0], matches.scores[0]
        other = (rows > 0) & (rows != row)
        rows, scores = rows[other], scores[other] / norms[rows[other]]
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]

    def _vector_norms(self) -> NDArray[np.float32]:
        if self._norms is None:
            n = self.shelf.n_items + 1
            parts = [
                np.linalg.norm(
                    self.shelf.index.vectors(np.arange(at, min(at + _VECTORS_AT_ONCE, n), dtype=np.int32)),
                    axis=1,
                )
                for at in range(0, n, _VECTORS_AT_ONCE)
            ]
            self._norms = np.maximum(np.concatenate(parts), 1e-12).astype(np.float32)
        return self._norms

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
