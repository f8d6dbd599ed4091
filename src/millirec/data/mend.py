"""What to write instead, where plain data does not fit the struct that it should become."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"unknown field `(.+?)`")
_MISSING = re.compile(r"missing required field `(.+?)`")
_VALUE = re.compile(r"Invalid (?:enum )?value '(.*?)'(?: -|$)")


def mend_of(error: msgspec.ValidationError, raw: Any, kind: Any, otherwise: str) -> str:
    """The fields or values that would fit where `msgspec.convert(raw, kind)` failed, the likeliest first.

    `otherwise` where the message tells of something else, such as a text in the place of a number.
    """
    message = str(error)
    steps = _steps(message)
    if steps is None:
        return otherwise
    if found := _UNKNOWN.search(message):
        return _told("fields", found[1], _fields(_at(kind, raw, steps)), otherwise)
    if found := _MISSING.search(message):
        values = _values(found[1], _at(kind, raw, steps))
        return f"add `{found[1]}`" + (f", one of: {', '.join(values)}" if values else "")
    if steps and (found := _VALUE.search(message)):
        name = str(steps[-1])
        return _told("values", found[1], _values(name, _at(kind, raw, steps[:-1])), otherwise)
    return otherwise


def _steps(message: str) -> list[str | int] | None:
    """The way from the root to where it failed; None where a key is not told."""
    place = _PLACE.search(message)
    path = place["path"] if place else ""
    steps: list[str | int] = [name or int(number) for name, number in _STEP.findall(path)]
    whole = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in steps)
    return steps if whole == path else None


def _at(kind: Any, raw: Any, steps: list[str | int]) -> list[inspect.StructType]:
    """The structs that may stand there."""
    types = [inspect.type_info(kind)]
    for step in steps:
        if isinstance(step, int):
            inner = [_item(one, step) for one in _flat(types)]
        else:
            structs = _structs(types, raw)
            inner = [field.type for one in structs for field in one.fields if field.encode_name == step]
        types = [one for one in inner if one is not None]
        raw = _inside(raw, step)
    return _structs(types, raw)


def _inside(raw: Any, step: str | int) -> Any:
    try:
        return raw[step]
    except (KeyError, IndexError, TypeError):
        return None


def _item(kind: inspect.Type, number: int) -> inspect.Type | None:
    if isinstance(kind, inspect.TupleType):
        return kind.item_types[number] if number < len(kind.item_types) else None
    return getattr(kind, "item_type", None)


def _flat(types: list[inspect.Type]) -> Iterator[inspect.Type]:
    for one in types:
        if isinstance(one, inspect.UnionType):
            yield from _flat(list(one.types))
        elif isinstance(one, inspect.Metadata):
            yield from _flat([one.type])
        else:
            yield one


def _structs(types: list[inspect.Type], raw: Any) -> list[inspect.StructType]:
    """The one that `raw` names by its tag, else all."""
    structs = [one for one in _flat(types) if isinstance(one, inspect.StructType)]
    named = [one for one in structs if one.tag_field and isinstance(raw, dict) and raw.get(one.tag_field) == one.tag]
    return named or structs


def _fields(structs: list[inspect.StructType]) -> list[str]:
    tags = {one.tag_field for one in structs if one.tag_field and len(structs) > 1}
    return sorted({field.encode_name for one in structs for field in one.fields} | tags)


def _values(name: str, structs: list[inspect.StructType]) -> list[str]:
    """The tags or the literal values that a field may have."""
    out = [str(one.tag) for one in structs if one.tag_field == name]
    for one in structs:
        for kind in _flat([field.type for field in one.fields if field.encode_name == name]):
            if isinstance(kind, inspect.LiteralType):
                out += map(str, kind.values)
    return list(dict.fromkeys(out))


def _told(what: str, wrong: str, right: list[str], otherwise: str) -> str:
    if not right:
        return otherwise
    close = get_close_matches(wrong, right, 1)
    asked = f"did you mean `{close[0]}`? " if close else ""
    return f"{asked}{what} there: {', '.join(right)}"
