"""Logs whose owners fixed the test part: roles come from the files."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, VALIDATION
from millirec.data.errors import ConfigError

Asked = Literal["last", "all"]


def protocol(validation: float, asked: Asked) -> str:
    """The split in words, with all that decides it."""
    return f"given (validation={validation:g}: {asked} events)"


def check_share(validation: float) -> None:
    """Raises ConfigError when the share of users that validate makes no sense."""
    if not 0 <= validation < 1:
        raise ConfigError(f"$.data.validation = {validation}", "choose a share from 0 up to 1, such as 0.1")


def join(train: pl.DataFrame, test: pl.DataFrame, validation: float, asked: Asked) -> pl.DataFrame:
    """Both parts in one log with a `role` an event. `test` may bring its own roles, else all of it is TEST.

    Since no owner gives a validation part, the last `validation` share of the training users (in order of first
    appearance, those with two events or more) validates as the test asks: with its `last` event, or with `all` but the
    first.
    """
    if "role" not in test.columns:
        test = test.with_columns(role=pl.lit(TEST, pl.UInt8))
    roles = _validating(train["user"], validation, asked)
    train = train.with_columns(role=pl.Series(roles, dtype=pl.UInt8))
    return pl.concat([train, test.select(train.columns)])


def _validating(users: pl.Series, share: float, asked: Asked) -> NDArray[np.uint8]:
    roles = np.full(len(users), TRAIN, np.uint8)
    places = pl.DataFrame({"user": users}).with_row_index("place")
    able = places.group_by("user", maintain_order=True).agg("place").filter(pl.col("place").list.len() > 1)
    n = max(round(len(able) * share), 1)  # one at least: training has to be stopped somewhere
    if share and len(able):
        chosen = able["place"].tail(n).list
        asking = chosen.tail(1) if asked == "last" else chosen.slice(1)
        roles[asking.explode().to_numpy()] = VALIDATION
    return roles
