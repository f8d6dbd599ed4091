"""Item tables: a vector for each row of the catalogue, kept in full or in few bytes.

A table is looked up by row and can be read as a whole. Kinds that cannot be trained hold buffers only. `TableConfig`,
the union of their configs, is the registry.
"""

from millirec.models.layers.table.base import ItemTable, output_vectors
from millirec.models.layers.table.dense import Dense, DenseTable
from millirec.models.layers.table.hashed import Hashed, HashedTable
from millirec.models.layers.table.low_rank import LowRank, LowRankTable
from millirec.models.layers.table.product import Product, ProductTable
from millirec.models.layers.table.quantized import Quantized, QuantizedTable
from millirec.models.layers.table.tiered import Tiered, TieredTable

__all__ = [
    "Dense",
    "DenseTable",
    "Hashed",
    "HashedTable",
    "ItemTable",
    "LowRank",
    "LowRankTable",
    "Product",
    "ProductTable",
    "Quantized",
    "QuantizedTable",
    "TableConfig",
    "Tiered",
    "TieredTable",
    "item_table",
    "output_vectors",
]

TableConfig = Dense | Quantized | Product | LowRank | Hashed | Tiered


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
        case Tiered():
            return TieredTable(n_items, width, config)
