"""What is said of a frontier's progress where there is no terminal."""

import pytest

from millirec.cli.frontier_bar import FrontierBar


def test_a_line_for_each_task_and_trainings_within(capsys: pytest.CaptureFixture[str]) -> None:
    with FrontierBar() as bar:
        bar.plan({"make": 1, "load": 2})
        bar.begin("make", "small")
        bar.epoch(0, 2, 0)
        bar.batch(1.0)
        bar.validated(0, {"ndcg@10": 0.25}, best=True)
        bar.end()
        for number in (1, 2):
            bar.begin("load", f"small, round {number} of 2")
            bar.end()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/3 make small"
    assert "ndcg@10 0.2500" in lines[1]
    assert lines[2] == "2/3 load small, round 1 of 2"
    assert lines[3] == "3/3 load small, round 2 of 2, 0:00:00 left"
