"""Item tables: a vector for each row of the catalogue, kept in full or in few bytes.

A table is looked up by row and can be read as a whole. Kinds that cannot be trained hold buffers only.
"""

from typing import Literal, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.codes import PRIME, factors, middle, pack, unpack
from millirec.data.errors import ConfigError


class Dense(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dense"):
    """A vector of floats for each item."""


class Quantized(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quantized"
):
    """Evenly spaced levels, 2 ** `bits` of them, times a scale for each row."""

    bits: Literal[2, 4, 8] = 8

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise ConfigError(f"$.model.table.bits = {self.bits}", "choose 2, 4 or 8")


class Product(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="product"):
    """`codes` sub-vectors an item, each chosen among 2 ** `bits` that all items share.

    Petrov and Macdonald, "RecJPQ: Training Large-Catalogue Sequential Recommenders", WSDM 2024: the codes rest, the
    sub-vectors are trained. Scores of cosines stay inner products here: item vectors are not brought to length 1, so
    that a score is the sum of `codes` table look-ups.
    """

    codes: int = 16
    bits: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise ConfigError(f"$.model.table.codes = {self.codes}", "choose at least 1")
        if self.bits not in (4, 8):
            raise ConfigError(f"$.model.table.bits = {self.bits}", "choose 4 or 8")


class LowRank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="low-rank"):
    """A vector of `rank` numbers for each item, times one matrix (rank, d).

    Lan et al., "ALBERT", ICLR 2020.
    """

    rank: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"$.model.table.rank = {self.rank}", "choose at least 1")


class Hashed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hashed"):
    """Vectors shared among items: each is made of several rows of small tables with `buckets` rows.

    "quotient-remainder": row // buckets and row % buckets, multiplied, so that no two items get the same pair (Shi et
    al., "Compositional Embeddings Using Complementary Partitions", KDD 2020). "multi": the sum of `hashes` rows of one
    table (Svenstrup et al., "Hash Embeddings", NeurIPS 2017, without their weights).
    """

    buckets: int = 4096
    way: Literal["quotient-remainder", "multi"] = "quotient-remainder"
    hashes: int = 2

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ConfigError(f"$.model.table.buckets = {self.buckets}", "choose at least 2")
        if self.hashes < 1:
            raise ConfigError(f"$.model.table.hashes = {self.hashes}", "choose at least 1")
        if self.way not in ("quotient-remainder", "multi"):
            raise ConfigError(f"$.model.table.way = {self.way!r}", "use 'quotient-remainder' or 'multi'")


TableConfig = Dense | Quantized | Product | LowRank | Hashed


class ItemTable(Protocol):
    """Vectors of `embedding_dim` numbers for rows 0..n; row 0 is padding.

    `unit`: the vectors may be brought to length 1 for scoring.
    """

    embedding_dim: int
    unit: bool

    def __call__(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""

    def vectors(self) -> Tensor:
        """All of them, (n + 1, d)."""


def item_table(config: TableConfig, n_items: int, width: int) -> ItemTable:
    """The table that a config describes. Raises ConfigError when it does not fit the width."""
    match config:
        case Dense():
            return DenseTable(n_items, width)
        case Quantized():
            return QuantizedTable(n_items, width, config)
        case Product():
            return ProductTable(n_items, width, config)
        case LowRank():
            return LowRankTable(n_items, width, config)
        case Hashed():
            return HashedTable(n_items, width, config)


def output_vectors(table: ItemTable, rows: Tensor | None, temperature: float | None) -> Tensor:
    """What user vectors are compared with: all vectors (n + 1, d), or those of `rows` (..., d).

    Of length 1 when there is a `temperature` and the table allows it.
    """
    vectors = table.vectors() if rows is None else table(rows)
    return vectors if temperature is None or not table.unit else F.normalize(vectors, dim=-1)


class DenseTable(nn.Embedding):
    """Floats."""

    unit = True

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__(n_items + 1, width, padding_idx=0)

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self.weight


class QuantizedTable(nn.Module):
    """Codes of 2, 4 or 8 bits, packed into bytes along a row, and a scale for each row."""

    unit = True
    codes: Tensor
    scale: Tensor
    held: Tensor

    def __init__(self, n_items: int, width: int, config: Quantized) -> None:
        super().__init__()
        self.embedding_dim, self.bits = width, config.bits
        _check_packing(width, config.bits, "$.model.embedding_dim")
        self.register_buffer("codes", torch.zeros(n_items + 1, width * config.bits // 8, dtype=torch.uint8))
        self.register_buffer("held", held_codes(config.bits) - middle(config.bits), persistent=False)
        self.register_buffer("scale", torch.zeros(n_items + 1, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return self._decoded(F.embedding(rows, self.codes), F.embedding(rows, self.scale))

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self._decoded(self.codes, self.scale)

    def _decoded(self, codes: Tensor, scale: Tensor) -> Tensor:
        return F.embedding(codes.int(), self.held).flatten(-2) * scale


class ProductTable(nn.Module):
    """Codes of 4 or 8 bits and the sub-vectors that they stand for, `centroids` (M, 2 ** bits, d / M)."""

    unit = False
    codes: Tensor
    held: Tensor
    starts: Tensor

    def __init__(self, n_items: int, width: int, config: Product) -> None:
        super().__init__()
        if width % config.codes:
            raise ConfigError(
                f"$.model.table.codes = {config.codes} does not divide $.model.embedding_dim = {width}",
                "choose a divisor",
            )
        _check_packing(config.codes, config.bits, "$.model.table.codes")
        self.embedding_dim, self.bits, levels = width, config.bits, 2**config.bits
        self.register_buffer("codes", torch.zeros(n_items + 1, config.codes * config.bits // 8, dtype=torch.uint8))
        self.register_buffer("held", held_codes(config.bits), persistent=False)
        self.register_buffer("starts", torch.arange(config.codes) * levels, persistent=False)
        self.centroids = nn.Parameter(torch.empty(config.codes, levels, width // config.codes))
        nn.init.normal_(self.centroids, std=width**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return self._decoded(F.embedding(rows, self.codes))

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self._decoded(self.codes)

    @torch.no_grad()
    def assign(self, numbers: NDArray[np.uint8]) -> None:
        """Let the codes of rows 0..n be `numbers` below 2 ** bits, (n + 1, M)."""
        self.codes.copy_(torch.from_numpy(pack(numbers, self.bits)))

    @torch.no_grad()
    def coded(self, vectors: Tensor) -> Tensor:
        """The codes (n, M * bits / 8) of the sub-vectors that are nearest to the parts of `vectors` (n, d)."""
        parts = vectors.reshape(len(vectors), len(self.centroids), self.centroids.shape[2]).movedim(1, 0)
        numbers = [torch.cdist(some, self.centroids).argmin(2).T for some in torch.split(parts, 1 << 14, dim=1)]
        return torch.from_numpy(pack(torch.cat(numbers).to(torch.uint8).cpu().numpy(), self.bits))

    def _decoded(self, codes: Tensor) -> Tensor:
        which = F.embedding(codes.int(), self.held).flatten(-2) + self.starts
        # Its gradient is five times as fast as that of an embedding whose few rows are looked up by all items.
        parts = self.centroids.flatten(0, 1).index_select(0, which.flatten())
        return parts.view(*codes.shape[:-1], self.embedding_dim)


class LowRankTable(nn.Module):
    """`weight` (n + 1, r) times `basis` (r, d)."""

    unit = True

    def __init__(self, n_items: int, width: int, config: LowRank) -> None:
        super().__init__()
        if config.rank >= width:
            raise ConfigError(
                f"$.model.table.rank = {config.rank} saves nothing at $.model.embedding_dim = {width}",
                "choose a smaller rank",
            )
        self.embedding_dim = width
        self.weight = nn.Parameter(torch.empty(n_items + 1, config.rank))
        self.basis = nn.Parameter(torch.empty(config.rank, width))
        nn.init.normal_(self.weight, std=0.02)
        nn.init.orthogonal_(self.basis)
        with torch.no_grad():
            self.weight[0].zero_()

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return F.embedding(rows, self.weight, padding_idx=0) @ self.basis

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self.weight @ self.basis


class HashedTable(nn.Module):
    """Rows of small tables, joined: `first` (buckets, d), and `second` (quotients, d) for quotient-remainder."""

    unit = True

    def __init__(self, n_items: int, width: int, config: Hashed) -> None:
        super().__init__()
        self.embedding_dim, self.config, self.n_items = width, config, n_items
        self.first = nn.Parameter(torch.empty(config.buckets, width))
        nn.init.normal_(self.first, std=0.02)
        if config.way == "quotient-remainder":
            self.second = nn.Parameter(torch.empty(n_items // config.buckets + 1, width))
            nn.init.normal_(self.second, mean=1.0, std=0.1)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        buckets, rows = self.config.buckets, rows.long()
        if self.config.way == "quotient-remainder":
            return F.embedding(rows % buckets, self.first) * F.embedding(rows // buckets, self.second)
        return torch.stack([F.embedding(place, self.first) for place in self.places(rows)]).sum(0)

    def places(self, rows: Tensor) -> list[Tensor]:
        """For each hash function the rows of `first` that `rows` (...) int64 share."""
        return [(rows * f + f // 3) % PRIME % self.config.buckets for f in factors(self.config.hashes)]

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        out: Tensor = self(torch.arange(self.n_items + 1, device=self.first.device))
        return out


def held_codes(bits: int) -> Tensor:
    """The numbers of `bits` bits that each byte holds, int64 (256, 8 / bits): unpacking is looking up."""
    return torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)[:, None], bits).astype(np.int64))


def _check_packing(count: int, bits: int, field: str) -> None:
    if count * bits % 8:
        raise ConfigError(f"{field} = {count} numbers of {bits} bits fill no whole bytes", "choose an even number")
