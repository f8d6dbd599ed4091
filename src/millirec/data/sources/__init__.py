"""Readers for the formats that logs come in: `read(config)` gives a `Dataset`."""

from dataclasses import replace
from pathlib import Path

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.data.simulate import simulate
from millirec.data.sources.assemble import k_core
from millirec.data.sources.compact import CompactConfig, read_compact
from millirec.data.sources.impressions import ImpressionsConfig, read_impressions
from millirec.data.sources.log import LogConfig, read_log
from millirec.data.sources.movielens import MovieLensConfig, read_movielens
from millirec.data.sources.rejects import OnError, Rejects, rejects
from millirec.data.sources.sequences import SequenceFileConfig, read_sequences
from millirec.data.sources.sessions import SessionConfig, read_sessions
from millirec.data.sources.tables import Columns, FeatureTable, TableConfig, read_table
from millirec.data.world import SimulatedConfig

SourceConfig = (
    MovieLensConfig
    | TableConfig
    | SequenceFileConfig
    | SessionConfig
    | LogConfig
    | ImpressionsConfig
    | CompactConfig
    | SimulatedConfig
)

__all__ = [
    "Columns",
    "CompactConfig",
    "FeatureTable",
    "ImpressionsConfig",
    "LogConfig",
    "MovieLensConfig",
    "OnError",
    "SequenceFileConfig",
    "SessionConfig",
    "SimulatedConfig",
    "SourceConfig",
    "TableConfig",
    "read",
]


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
        case TableConfig():
            return read_table(config, sink)
        case SequenceFileConfig():
            return read_sequences(config, sink)
        case SessionConfig():
            return read_sessions(config, sink)
        case LogConfig():
            return read_log(config, sink)
        case ImpressionsConfig():
            return read_impressions(config, sink)
        case CompactConfig():
            return read_compact(config)
        case SimulatedConfig():
            return simulate(config).dataset
