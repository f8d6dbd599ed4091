"""Item indexes: search(vectors, k) -> Matches. `IndexConfig` is the registry."""

from collections.abc import Mapping

from millirec.data.errors import ConfigError
from millirec.data.tensors import Array
from millirec.index.base import Floats, Index, Matches, recall
from millirec.index.exact import ExactConfig, ExactIndex
from millirec.index.fused import FusedIndex
from millirec.index.pq import PQConfig, PQIndex
from millirec.index.product import ProductIndex, ProductIndexConfig
from millirec.index.table import TableIndex, TableIndexConfig
from millirec.index.tiered import TieredIndex, TieredIndexConfig

__all__ = [
    "ExactConfig",
    "ExactIndex",
    "FusedIndex",
    "Index",
    "IndexConfig",
    "Matches",
    "PQConfig",
    "ProductIndex",
    "ProductIndexConfig",
    "TableIndex",
    "TableIndexConfig",
    "TieredIndex",
    "TieredIndexConfig",
    "build",
    "load",
    "recall",
]

IndexConfig = ExactConfig | PQConfig | ProductIndexConfig | TableIndexConfig | TieredIndexConfig


def build(vectors: Floats, config: IndexConfig) -> Index:
    """The index that `config` describes, over `vectors` (n_items + 1, d); row 0 is padding."""
    if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] < 1:
        raise ConfigError(f"item vectors of shape {vectors.shape}", "give (n_items + 1, d), n_items at least 1")
    match config:
        case ExactConfig():
            return ExactIndex(vectors)
        case PQConfig():
            return PQIndex.build(vectors, config)
        case ProductIndexConfig():
            return ProductIndex.build(vectors, config)
        case TableIndexConfig():
            return TableIndex.build(vectors, config)
        case TieredIndexConfig():
            raise ConfigError(
                '$.index.kind = "tiered" is not made from vectors', "pack a model that has a tiered table of codes"
            )


def load(arrays: Mapping[str, Array], config: IndexConfig) -> Index:
    """An index from the arrays that `arrays()` gave. Raises ArtifactError when they are missing or damaged."""
    match config:
        case ExactConfig():
            return ExactIndex.load(arrays)
        case PQConfig():
            return PQIndex.load(arrays, config)
        case ProductIndexConfig():
            return ProductIndex.load(arrays, config)
        case TableIndexConfig():
            return TableIndex.load(arrays, config)
        case TieredIndexConfig():
            return TieredIndex.load(arrays, config)
