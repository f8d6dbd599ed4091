"""What benchmarks of bundles share: an engine to ask, how good its ranks are, and how much better than others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.bundle import Bundle
from millirec.data.history import HistoryLimits
from millirec.engine.engine import Engine
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore, StoreSettings
from millirec.metrics.bootstrap import paired_difference


def engine_of(bundle: Bundle, *, parallel: bool = True) -> Engine:
    """An engine of its own over an empty store."""
    limits = HistoryLimits().covering(bundle.max_length)
    store = StateStore.temporary(StoreSettings(limits=limits))
    return Engine(bundle, store, EngineSettings(parallel=parallel))


def gains_of(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """NDCG@10 of each target, given its rank."""
    gains: NDArray[np.float64] = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0.0)
    return gains


def difference(gains: NDArray[np.float64], others: NDArray[np.float64], users: NDArray[np.int32]) -> dict[str, Any]:
    """Mean and 95 % interval of what the same targets gained, users drawn again, and the p value."""
    found = paired_difference(gains, others, n=10_000, groups=users)
    return {"difference": [found.mean, found.low, found.high], "p_value": found.p_value}


def told(row: dict[str, Any]) -> str:
    """The `difference` of a row in words, "" where it has none."""
    if "difference" not in row:
        return ""
    mean, low, high = row["difference"]
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f}), p = {row['p_value']:.4f}"
