"""Logs whose owners fixed the test part: roles come from the files."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, VALIDATION
from millirec.data.errors import ConfigError

PROTOCOL = "given"


def check_share(validation: float) -> None:
    """Raises ConfigError when the share of users that validate makes no sense."""
    if not 0 <= validation < 1:
        raise ConfigError(f"$.data.validation = {validation}", "choose a share from 0 up to 1, such as 0.1")


def join(train: pl.DataFrame, test: pl.DataFrame, validation: float) -> pl.DataFrame:
    """Both parts in one log with a `role` an event. `test` may bring its own roles, else all of it is TEST.

    The last event of the last `validation` share of the training users (in order of first appearance, those with two
    events or more) validates, since no owner gives a validation part.
    """
    if "role" not in test.columns:
        test = test.with_columns(role=pl.lit(TEST, pl.UInt8))
    roles = _validating(train["user"], validation)
    train = train.with_columns(role=pl.Series(roles, dtype=pl.UInt8))
    return pl.concat([train, test.select(train.columns)])


def _validating(users: pl.Series, share: float) -> NDArray[np.uint8]:
    roles = np.full(len(users), TRAIN, np.uint8)
    places = pl.DataFrame({"user": users}).with_row_index("place")
    last = places.group_by("user", maintain_order=True).agg(pl.col("place").last(), pl.len())
    able = last.filter(pl.col("len") > 1)["place"].to_numpy()
    if n := round(len(able) * share):
        roles[able[-n:]] = VALIDATION
    return roles
