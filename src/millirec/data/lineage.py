"""How a model came to be: what was done to it, and on which data. Checkpoints and bundles both carry it."""

from typing import Any

import msgspec

from millirec import __version__


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done to a model: its name, its settings, and what it cost."""

    name: str
    settings: dict[str, Any]
    millirec: str = __version__
    seconds: float = 0.0


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Which data a model has learned from.

    `source`, `split` and `thin` are the settings that read it again; `fingerprint` is the hash of the whole data set;
    `trained_until` is the time (ms) of the newest training event. `retrieval`: of a ranker of candidates, the folder of
    the model that found them.
    """

    fingerprint: str
    protocol: str
    n_events: int
    trained_until: int
    source: dict[str, Any] = {}
    split: dict[str, Any] = {}
    thin: dict[str, Any] = {}
    retrieval: str = ""
