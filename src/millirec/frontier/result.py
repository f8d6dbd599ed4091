"""`Frontier`: all that was found, as it stands in frontier.json."""

from typing import Any

import msgspec

from millirec.bundle.counts import CountsEntry
from millirec.data.lineage import Step
from millirec.frontier.choice import Choice
from millirec.frontier.config import Limits, Measure
from millirec.frontier.host import Host
from millirec.frontier.quality import Quality
from millirec.frontier.rankers import MadeRanker
from millirec.frontier.search import Searched
from millirec.frontier.speed import Speed

SCHEMA = 1


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one variant was found to be.

    `quality` and `speed`: measured. `bundle_bytes`: of all files of the bundle. `training_seconds` and
    `compression_seconds`: from the lineage, that of the ranker included. `zeros`: share of the floating-point
    parameters that are 0. `kernels`: nodes of its graphs by operator. `ranker`: the second stage, of which `model`,
    `lineage` and the last three do not tell. `counts`: what was counted beside the network.
    """

    name: str
    content_hash: str
    model: dict[str, Any]
    lineage: tuple[Step, ...]
    quality: Quality
    speed: Speed
    bundle_bytes: int
    training_seconds: float
    compression_seconds: float
    zeros: float
    parameters: int
    kernels: dict[str, int]
    ranker: MadeRanker | None = None
    counts: tuple[CountsEntry, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A variant on the frontier: its figures, the plots on whose front it is, remarks, and the config that rebuilds it.

    `fronts`: among "p99", "bytes" and "requests/s"; quality is the other axis of each.
    """

    figures: Figures
    fronts: tuple[str, ...]
    remarks: tuple[str, ...]
    config: str


class Frontier(msgspec.Struct, frozen=True, kw_only=True):
    """One frontier. The first variant is the teacher. `data` and `protocol`: fingerprint and split of the log.

    `seconds`: what this run took; what was taken from the cache took nothing. `search`: the trials before it.
    """

    schema: int = SCHEMA
    name: str
    created: str
    seconds: float
    host: Host
    data: str
    protocol: str
    measure: Measure
    limits: Limits
    gate: float | None
    variants: tuple[Entry, ...]
    choice: Choice
    search: Searched | None = None
