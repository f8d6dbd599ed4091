"""Open places in plain data."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.errors import ConfigError
from millirec.frontier.space import drawn, opened

PLAIN: dict[str, Any] = {
    "engine": {"max_batch": {"choose": [8, 16]}},
    "steps": [
        {"kind": "quantize", "table_bits": 4},
        {"choose": [{"kind": "prune", "sparsity": {"low": 0.2, "high": 0.8}}, {"kind": "hash"}]},
    ],
}


class Fixed:
    """Suggests what it was told, and keeps what it was asked."""

    def __init__(self, **said: Any) -> None:
        self.said, self.asked = {key.replace("__", "."): value for key, value in said.items()}, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = choices
        return choices[self.said.get(name, 0)]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = (low, high, step, log)
        return high

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = (low, high, step, log)
        return low


def test_what_is_open_is_found_within_choices_too() -> None:
    assert [path for path, _ in opened(PLAIN, "v")] == [
        "v.engine.max_batch", "v.steps[1]", "v.steps[1].choose[0].sparsity",
    ]  # fmt: skip


def test_a_draw_fills_every_open_place() -> None:
    first = Fixed()
    assert drawn(PLAIN, first) == {
        "engine": {"max_batch": 8},
        "steps": [{"kind": "quantize", "table_bits": 4}, {"kind": "prune", "sparsity": 0.2}],
    }
    assert first.asked["engine.max_batch"] == [8, 16]
    second = Fixed()
    second.said = {"engine.max_batch": 1, "steps[1]": 1}
    assert drawn(PLAIN, second)["steps"][1] == {"kind": "hash"}
    assert not [name for name in second.asked if "sparsity" in name]  # asked only where it was chosen


def test_whole_bounds_give_whole_numbers() -> None:
    fixed = Fixed()
    assert drawn({"a": {"low": 2, "high": 8, "step": 2}, "b": {"low": 1, "high": 2.0, "log": True}}, fixed) == {
        "a": 8, "b": 1.0,
    }  # fmt: skip
    assert fixed.asked == {"a": (2, 8, 2, False), "b": (1.0, 2.0, None, True)}


@given(st.recursive(st.integers() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.text().filter(lambda key: key not in ("choose", "low", "high")), inner
)))  # fmt: skip
def test_closed_data_stay_as_they_are(plain: Any) -> None:
    fixed = Fixed()
    assert drawn(plain, fixed) == plain
    assert not fixed.asked
    assert not list(opened(plain, ""))


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ({"choose": []}, "v.a.choose is empty"),
        ({"choose": [1, 1]}, "v.a.choose names a value twice"),
        ({"choose": [1], "low": 1}, "v.a"),
        ({"low": 1}, "v.a"),
        ({"low": 2, "high": 1}, "v.a: low = 2, high = 1"),
        ({"low": 0, "high": 1.0, "log": True}, "v.a: log"),
        ({"low": 0, "high": 4, "step": 0.5}, "v.a: step = 0.5"),
        ({"low": 0, "high": 4, "step": 5}, "v.a: step = 5"),
        ({"choose": [{"low": "x", "high": 3}]}, "v.a.choose[0]"),
    ],
)
def test_what_is_no_range_is_refused_by_its_path(domain: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        list(opened({"a": domain}, "v"))
    assert words in refused.value.problem
