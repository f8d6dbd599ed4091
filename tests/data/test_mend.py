"""What to write instead: names and values that would fit, the likeliest first."""

from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.mend import mend_of


class Small(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="small"):
    width: int = 1
    cell: Literal["gru", "lstm"] = "gru"


class Large(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="large"):
    depth: int


class Run(msgspec.Struct, forbid_unknown_fields=True):
    model: Small | Large
    parts: tuple[Small | Large, ...] = ()
    either: Small | None = None
    names: dict[str, Small] = {}


GOOD = {"kind": "small"}


def mended(raw: Any) -> str:
    """What is said of plain data that does not fit."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(raw, Run)
    return mend_of(caught.value, raw, Run, "see the docs")


@pytest.mark.parametrize(
    ("raw", "mend"),
    [
        ({"model": {"kind": "smal"}}, "did you mean `small`? values there: small, large"),
        ({"model": {"kind": "other"}}, "values there: small, large"),
        ({"model": {"width": 1}}, "add `kind`, one of: small, large"),
        ({"model": {"kind": "small", "widht": 1}}, "did you mean `width`? fields there: cell, width"),
        ({"model": {"kind": "large", "widht": 1, "depth": 1}}, "fields there: depth"),
        ({"model": {"kind": "small", "cell": "LSTM"}}, "values there: gru, lstm"),
        ({"model": {"kind": "large"}}, "add `depth`"),
        ({}, "add `model`"),
        ({"model": GOOD, "modle": GOOD}, "did you mean `model`? fields there: either, model, names, parts"),
        ({"model": GOOD, "parts": [GOOD, {"kind": "small", "x": 1}]}, "fields there: cell, width"),
        ({"model": GOOD, "parts": [{"kind": "lage"}]}, "did you mean `large`? values there: small, large"),
        ({"model": GOOD, "either": {"kind": "small", "cel": "gru"}}, "did you mean `cell`? fields there: cell, width"),
        ({"model": GOOD, "names": {"a": {"kind": "small", "x": 1}}}, "see the docs"),  # the message tells no key
        ({"model": {"kind": "small", "width": "one"}}, "see the docs"),
        ({"model": 3}, "see the docs"),
    ],
)
def test_the_mend_names_what_would_fit(raw: Any, mend: str) -> None:
    assert mended(raw) == mend


_plain = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "model", "parts", "either", "names", "cell", "`", "a.b"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["model", "parts", "either", "names", "`x`", "."]), _plain))
def test_whatever_is_wrong_there_is_a_mend(raw: Any) -> None:
    try:
        msgspec.convert(raw, Run)
    except msgspec.ValidationError as error:
        mend = mend_of(error, raw, Run, "see the docs")
    else:
        return
    assert mend
