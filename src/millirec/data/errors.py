"""The user's mistakes: one clear line that names the field and the mend."""


class MillirecError(Exception):
    """A mistake that the user can mend. `str(error)` is one line; the command line exits with 2.

    Parameters: `problem` says what is wrong and where; `mend` says what to do about it.
    """

    def __init__(self, problem: str, mend: str = "") -> None:
        self.problem = problem
        self.mend = mend
        super().__init__(f"{problem} -> {mend}" if mend else problem)


class DataError(MillirecError):
    """A log, table or line that cannot be read."""


class ConfigError(MillirecError):
    """A setting that cannot work; the problem starts with its path, such as `$.model.embedding_dim`."""


class ArtifactError(MillirecError):
    """A checkpoint or bundle that is damaged, of another version, or does not fit."""


class QueryError(MillirecError):
    """A question that cannot be answered as it was put."""


class NotFoundError(QueryError):
    """A question about something that is not there."""


class UnavailableError(MillirecError):
    """Nothing wrong with the request: it cannot be served now, and may be sent again later."""
