"""Settings of which some are left open: which values they may take, and one draw of them all."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from millirec.data.errors import ConfigError


class Choose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of these: numbers, words, or whole tables and lists, in which more may be left open."""

    choose: list[Any]


class Between(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number from `low` to `high`, both included; a whole one when both are. `log`: even in its logarithm.

    `step`: only every such number, counted from `low`.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None


class Suggest(Protocol):
    """Who decides; as a trial of Optuna does."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""


def opened(plain: Any, where: str) -> Iterator[tuple[str, Choose | Between]]:
    """What is left open in plain data, by its path, also within choices. Raises ConfigError for what is no range."""
    domain = _domain(plain, where)
    if domain is not None:
        yield where, domain
    if isinstance(domain, Choose):
        for i, value in enumerate(domain.choose):
            yield from opened(value, f"{where}.choose[{i}]")
    elif domain is None:
        for path, value in _parts(plain, where):
            yield from opened(value, path)


def drawn(plain: Any, suggest: Suggest, where: str = "") -> Any:
    """The data with a value in each open place."""
    match _domain(plain, where):
        case Between() as between:
            return _number(between, suggest, where)
        case Choose(choose=choices):
            labels = [choice if _is_plain(choice) else msgspec.json.encode(choice).decode() for choice in choices]
            at = labels.index(suggest.suggest_categorical(where, labels))
            return drawn(choices[at], suggest, f"{where}.choose[{at}]")
    if isinstance(plain, dict):
        return {
            key: drawn(value, suggest, path) for key, (path, value) in zip(plain, _parts(plain, where), strict=True)
        }
    if isinstance(plain, list):
        return [drawn(value, suggest, path) for path, value in _parts(plain, where)]
    return plain


def _number(between: Between, suggest: Suggest, where: str) -> int | float:
    low, high, step, log = between.low, between.high, between.step, between.log
    if isinstance(low, int) and isinstance(high, int):
        return suggest.suggest_int(where, low, high, step=1 if step is None else int(step), log=log)
    return suggest.suggest_float(where, float(low), float(high), step=step, log=log)


def _parts(plain: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(plain, dict):
        yield from ((f"{where}.{key}" if where else str(key), value) for key, value in plain.items())
    elif isinstance(plain, list):
        yield from ((f"{where}[{i}]", value) for i, value in enumerate(plain))


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _domain(plain: Any, where: str) -> Choose | Between | None:
    if not isinstance(plain, dict) or not plain.keys() & {"choose", "low", "high"}:
        return None
    try:
        if "choose" in plain:
            choose = msgspec.convert(plain, Choose)
            _check_choices(choose, where)
            return choose
        between = msgspec.convert(plain, Between)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", "write { choose = [...] } or { low = .., high = .. }") from error
    _check_range(between, where)
    return between


def _check_choices(domain: Choose, where: str) -> None:
    if not domain.choose:
        raise ConfigError(f"{where}.choose is empty", "name at least one value")
    labels = [msgspec.json.encode(choice) for choice in domain.choose]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{where}.choose names a value twice", "name each once")


def _check_range(domain: Between, where: str) -> None:
    low, high, step = domain.low, domain.high, domain.step
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: low = {low}, high = {high}", "choose low below high")
    if domain.log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log = true", "choose low above 0, and leave step out")
    if step is None:
        return
    whole = isinstance(low, int) and isinstance(high, int)
    if not 0 < step <= high - low or (whole and not isinstance(step, int)):
        raise ConfigError(f"{where}: step = {step}", f"choose a {'whole ' * whole}number above 0, at most high - low")
