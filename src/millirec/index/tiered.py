"""Two product tables as one index: many codes for the few items that have most events, few codes for all others.

Both tables are scanned in registers, and the answer is exact for what the codes stand for. The fine items are searched
first: where the best sum that any coarse item can reach lies below what they answer, the coarse ones are not scanned
(a bound in the manner of Petrov et al., "Efficient Recommendation with Millions of Items by Dynamic Pruning of Sub-Item
Embeddings", SIGIR 2025, for a whole tier).
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.index.base import Floats, Matches, Rows
from millirec.index.product import ProductIndex, ProductIndexConfig


class TieredIndexConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="tiered"
):
    """`fine_codes` codes of `bits` bits for a fine item, `codes` of `code_bits` bits for a coarse one."""

    fine_codes: int = 32
    bits: Literal[4, 8] = 4
    codes: int = 8
    code_bits: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        self.tiers()  # refuses what cannot be

    def tiers(self) -> tuple[ProductIndexConfig, ProductIndexConfig]:
        """The fine and the coarse one."""
        return (
            _checked(self.fine_codes, self.bits, codes="fine_codes", bits="bits"),
            _checked(self.codes, self.code_bits, codes="codes", bits="code_bits"),
        )


def _checked(count: int, width: Literal[4, 8], **names: str) -> ProductIndexConfig:
    """A tier. Raises ConfigError that names the fields of `TieredIndexConfig`."""
    try:
        return ProductIndexConfig(codes=count, bits=width)
    except ConfigError as error:
        problem = error.problem
        for there, here in names.items():
            problem = problem.replace(f"$.index.{there} ", f"$.index.{here} ")
        raise ConfigError(problem, error.mend) from error


class TieredIndex:
    """`slots` (n_items + 1, 1): how many of the rows 1..r are fine; it rises where r is.

    Equal scores are ordered by row, lower first. Besides the two tables it holds 8 bytes for each fine item.
    """

    def __init__(self, slots: Array, fine: ProductIndex, coarse: ProductIndex) -> None:
        self._slots, self._fine, self._coarse = slots, fine, coarse
        self._rows = (np.flatnonzero(np.diff(slots[:, 0])) + 1).astype(np.int32)
        self._before = self._rows - np.arange(len(self._rows), dtype=np.int32)  # coarse rows below, and 1

    @classmethod
    def of_table(cls, arrays: Mapping[str, Array]) -> "TieredIndex":
        """The index that reads a tiered table whose two tiers are product codes, by the names of its arrays.

        Raises ArtifactError when one is missing or they do not fit one another.
        """
        try:
            slots = arrays["slots"]
            tables = [ProductIndex(arrays[f"{tier}.codes"], arrays[f"{tier}.centroids"]) for tier in ("fine", "coarse")]
        except KeyError as error:
            raise ArtifactError(f"the item index has no {error}", "pack again") from error
        return cls(slots, *tables)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self._slots) - 1

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._fine.dim

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d), exactly."""
        out = self._fine.search(vectors, k)
        out.rows[:] = self._rows_of_fine(out.rows)
        open_ = np.flatnonzero(~(out.scores[:, -1] > self._coarse.most(vectors))) if k else np.zeros(0, np.int64)
        if len(open_):
            more = self._coarse.search(vectors[open_], k)
            rows = np.hstack([out.rows[open_], self._rows_of_coarse(more.rows)])
            scores = np.hstack([out.scores[open_], more.scores])
            best = np.lexsort((rows, -scores), axis=1)[:, :k]
            out.rows[open_] = np.take_along_axis(rows, best, 1)
            out.scores[open_] = np.take_along_axis(scores, best, 1)
        return out

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Inner products (B, C) of each query with its own rows."""
        slots, fine = self._placed(rows)
        return np.where(
            fine, self._fine.scores(vectors, np.where(fine, slots, 0)),
            self._coarse.scores(vectors, np.where(fine, 0, rows - slots)),
        )  # fmt: skip

    def vectors(self, rows: Rows) -> Floats:
        """The vectors (n, d) of rows (n,)."""
        slots, fine = self._placed(rows)
        out = self._coarse.vectors(np.where(fine, 0, rows - slots))
        out[fine] = self._fine.vectors(slots[fine])
        return out

    def arrays(self) -> dict[str, Array]:
        """`slots`, and the codes and sub-vectors of both tiers, as the item table of a network names them."""
        tiers = {"fine": self._fine, "coarse": self._coarse}
        return {"slots": self._slots} | {
            f"{name}.{part}": array for name, tier in tiers.items() for part, array in tier.arrays().items()
        }

    @classmethod
    def load(cls, arrays: Mapping[str, Array], config: TieredIndexConfig) -> "TieredIndex":
        """The inverse of `arrays`. Raises ArtifactError when one is missing or they do not fit."""
        names = zip(("fine", "coarse"), config.tiers(), strict=True)
        fine, coarse = (ProductIndex.load(_tier(arrays, name), tier) for name, tier in names)
        slots = arrays.get("slots", np.zeros((0, 1), np.int32))
        fits = slots.dtype == np.int32 and slots.ndim == 2 and slots.shape[1] == 1 and len(slots) > 1
        fits = fits and slots[0, 0] == 0 and slots[-1, 0] == fine.n_items and fine.dim == coarse.dim
        fits = fits and len(slots) - 1 == fine.n_items + coarse.n_items
        if not fits or not np.isin(np.diff(slots[:, 0]), (0, 1)).all():
            raise ArtifactError(
                f"the item index places {len(slots) - 1} items in tiers of {fine.n_items} and {coarse.n_items}",
                "pack again",
            )
        return cls(slots, fine, coarse)

    def _placed(self, rows: Rows) -> tuple[Rows, NDArray[np.bool_]]:
        """How many fine rows lie at or below each row, and whether it is fine itself."""
        slots: Rows = self._slots[rows, 0]
        return slots, (rows > 0) & (slots > self._slots[np.maximum(rows - 1, 0), 0])

    def _rows_of_fine(self, places: Rows) -> Rows:
        return np.where(places > 0, self._rows[places - 1], 0).astype(np.int32)

    def _rows_of_coarse(self, places: Rows) -> Rows:
        rows = places + np.searchsorted(self._before, places, side="right")
        return np.where(places > 0, rows, 0).astype(np.int32)


def _tier(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
