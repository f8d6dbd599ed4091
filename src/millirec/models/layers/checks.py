"""What every config of a sequence network must keep, said once."""

from typing import Protocol

from millirec.data.errors import ConfigError


class _Sequence(Protocol):
    @property
    def max_length(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def temperature(self) -> float | None: ...


def check_sequence(config: _Sequence, *positive: str) -> None:
    """The fields named by `positive` are at least 1, the others in their ranges.

    Raises ConfigError that names the field and the mend.
    """
    for name in positive:
        if getattr(config, name) < 1:
            raise ConfigError(f"$.model.{name} = {getattr(config, name)}", "choose at least 1")
    if config.max_length < 2:
        raise ConfigError(f"$.model.max_length = {config.max_length}", "a sequence needs at least 2 events")
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"$.model.dropout = {config.dropout}", "choose a share from 0 to below 1")
    if config.temperature is not None and not 0.001 <= config.temperature <= 10:
        raise ConfigError(f"$.model.temperature = {config.temperature}", "choose 0.001 to 10, or leave it out")
