"""The features of a ranker: declared once, computed alike for training rows and for live requests.

Events and a question become `Facts` (`FeatureState` event by event, `replayed` in bulk); `Featuriser` turns facts into
the arrays of a network.
"""

from millirec.data.features.config import FieldConfig, check_fields
from millirec.data.features.facts import Facts, Needs
from millirec.data.features.featuriser import Featuriser
from millirec.data.features.keys import Keys
from millirec.data.features.learned import Learned
from millirec.data.features.live import LiveFeatures, LiveRows, Sides, sides_of
from millirec.data.features.ragged import Ragged
from millirec.data.features.replay import Events, Questions, replayed
from millirec.data.features.rows import RankingRows, RowSplit, known_events, ranking_rows, split_rows
from millirec.data.features.schema import Features, Schema
from millirec.data.features.state import FeatureState

__all__ = [
    "Events",
    "Facts",
    "FeatureState",
    "Features",
    "Featuriser",
    "FieldConfig",
    "Keys",
    "Learned",
    "LiveFeatures",
    "LiveRows",
    "Needs",
    "Questions",
    "Ragged",
    "RankingRows",
    "RowSplit",
    "Schema",
    "Sides",
    "check_fields",
    "known_events",
    "ranking_rows",
    "replayed",
    "sides_of",
    "split_rows",
]
