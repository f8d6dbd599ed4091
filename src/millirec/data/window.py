"""Lengths of time as settings tell them: "30s", "15m", "12h", "7d"."""

import re

_WINDOW = re.compile(r"[1-9][0-9]{0,5}[smhd]")
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
EXAMPLES = 'write such as "30m", "12h" or "7d"'


def milliseconds(text: str) -> int | None:
    """How long that is; None when it does not tell."""
    return int(text[:-1]) * _UNITS[text[-1]] if _WINDOW.fullmatch(text) else None
