"""Time left, on a clock that the test moves."""

from millirec.frontier.pace import Nobody, Pace


def test_each_kind_goes_on_as_it_has() -> None:
    now = [0.0]
    pace = Pace({"make": 1, "load": 3}, lambda: now[0])

    def work(kind: str, seconds: float) -> None:
        pace.begin(kind)
        now[0] += seconds
        pace.end()

    assert pace.seconds_left() is None
    work("make", 100)
    assert pace.seconds_left() is None  # how long a load takes is not known yet
    work("load", 10)
    assert pace.seconds_left() == 20
    work("load", 20)
    assert pace.seconds_left() == 15  # the mean of 10 and 20
    pace.begin("load")
    now[0] += 5
    assert pace.seconds_left() == 10
    now[0] += 50
    assert pace.seconds_left() == 0
    pace.end()
    assert (pace.done, pace.total, pace.seconds_left()) == (4, 4, 0)


def test_nobody_needs_to_watch() -> None:
    watcher = Nobody()
    watcher.plan({"make": 1})
    watcher.begin("make", "x")
    watcher.end()
