"""`Costs`: what stages took of late, to tell whether one more will end in time."""

from time import perf_counter

_UP, _DOWN = 0.5, 0.1  # how fast an expectation follows a slower, and a faster, stage
_FORGET = 0.99
_FADE = 0.98  # of the worst time of late, with each time that comes after it


class Costs:
    """Expected seconds of stages, by name. Written without a lock: a lost update is one sample less.

    `busy`: stages that nobody waits for any longer, and that go on.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._worst: dict[str, float] = {}
        self.busy: set[str] = set()

    def expected(self, name: str) -> float:
        """Seconds, 0 for a stage that was never timed."""
        return self._seconds.get(name, 0.0)

    def fits(self, name: str, due: float, times: int = 1) -> bool:
        """Whether a stage, `times` over, is expected to end by `due` (seconds of `perf_counter`).

        Each refusal makes the expectation a little better, so that a stage that was slow once is tried again.
        """
        if name in self.busy:
            return False
        if perf_counter() + self.expected(name) * times <= due:
            return True
        if name in self._seconds:
            self._seconds[name] *= _FORGET
        return False

    def fit(self, names: tuple[str, ...], due: float) -> bool:
        """Whether these stages, one after the other, are expected to end by `due`; as `fits` otherwise."""
        if not self.busy.isdisjoint(names):
            return False
        if perf_counter() + sum(map(self.expected, names)) <= due:
            return True
        for name in self._seconds.keys() & set(names):
            self._seconds[name] *= _FORGET
        return False

    def is_trial(self, name: str, due: float) -> bool:
        """Whether a stage that took as long as the worst time of late would not end by `due`."""
        return perf_counter() + self._worst.get(name, 0.0) > due

    def took(self, name: str, seconds: float) -> None:
        """Note what a stage took."""
        self._worst[name] = max(seconds, self._worst.get(name, 0.0) * _FADE)
        old = self._seconds.get(name)
        if old is None:
            self._seconds[name] = seconds
        else:
            self._seconds[name] = old + (_UP if seconds > old else _DOWN) * (seconds - old)
