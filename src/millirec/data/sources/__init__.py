"""Readers for the formats that logs come in: `read(config)` gives a `Dataset`."""

from dataclasses import replace
from pathlib import Path

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.data.sources.assemble import k_core
from millirec.data.sources.movielens import MovieLensConfig, read_movielens
from millirec.data.sources.rejects import OnError, Rejects, rejects

SourceConfig = MovieLensConfig


def read(config: SourceConfig, *, on_error: OnError = "fail", rejected: Path | None = None) -> Dataset:
    """Read a log. Events keep their file order; catalogue rows come in order of first appearance.

    With `on_error="skip"` bad rows are counted (`Dataset.rejected`) and written to `rejected` (JSON lines; by default
    `<file>.rejected.jsonl` in the current folder). Raises DataError that names file, line and mend.
    """
    with rejects(on_error, rejected) as sink:
        dataset = _read(config, sink)
    filtered = config.min_user_events > 1 or config.min_item_events > 1
    if filtered and dataset.protocol != "none":
        raise ConfigError(
            "$.data: min_user_events and min_item_events cannot apply to a log with a given test part",
            "leave them out",
        )
    dataset = k_core(dataset, config.min_user_events, config.min_item_events)
    return replace(dataset, rejected=sink.count)


def _read(config: SourceConfig, sink: Rejects) -> Dataset:
    match config:
        case MovieLensConfig():
            return read_movielens(config, sink)
