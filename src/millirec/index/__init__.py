"""Item indexes: search(vectors, k) -> Matches. `IndexConfig` is the registry."""

from pathlib import Path

from millirec.data.errors import ConfigError
from millirec.index.base import Floats, Index, Matches, recall
from millirec.index.exact import ExactConfig, ExactIndex
from millirec.index.pq import PQConfig, PQIndex

__all__ = ["ExactConfig", "Index", "IndexConfig", "Matches", "PQConfig", "build", "load", "recall"]

IndexConfig = ExactConfig | PQConfig


def build(vectors: Floats, config: IndexConfig) -> Index:
    """The index that `config` describes, over `vectors` (n_items + 1, d); row 0 is padding."""
    if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] < 1:
        raise ConfigError(f"item vectors of shape {vectors.shape}", "give (n_items + 1, d), n_items at least 1")
    match config:
        case ExactConfig():
            return ExactIndex(vectors)
        case PQConfig():
            return PQIndex.build(vectors, config)


def load(folder: Path, config: IndexConfig) -> Index:
    """An index that `save` wrote into `folder`. Raises ArtifactError when it is missing or damaged."""
    match config:
        case ExactConfig():
            return ExactIndex.load(folder)
        case PQConfig():
            return PQIndex.load(folder, config)
