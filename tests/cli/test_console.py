"""Tables lose no figure, however narrow the place is where they are shown."""

import io

import pytest
from rich.console import Console

from millirec.cli import console

FIGURES = [f"0.{number:04d}" for number in range(1234, 1244)]


def test_a_pipe_gets_each_row_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("figures", ["artifact", *"abcdefghij"], [["runs/a/checkpoint - runs/b/checkpoint", *FIGURES]])
    assert any(all(figure in line for figure in FIGURES) for line in capsys.readouterr().out.splitlines())


def test_a_narrow_terminal_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=file, width=60, force_terminal=True))
    console.table("figures", ["artifact", *"abcdefg"], [["runs/a/checkpoint", *FIGURES[:7]]])
    assert "…" not in file.getvalue()
    digits = sum(letter.isdigit() for letter in file.getvalue().split("artifact")[-1])
    assert digits >= 7 * 5
