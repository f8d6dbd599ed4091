"""`Members`: the models of a bundle, asked side by side. One that fails or is late is left out."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from millirec.bundle.read import Part
from millirec.cascade.costs import Costs
from millirec.data.encode import Batch
from millirec.engine.batcher import encode_all
from millirec.engine.carry import Carry, Question, capacity_of
from millirec.engine.runner import Runner
from millirec.engine.settings import EngineSettings

log = logging.getLogger("millirec.engine")
_QUIET = 60.0  # seconds between two log entries on one member
Found = Sequence[NDArray[np.float32] | None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """User vectors of questions, None where nothing is known of a user, and who made them.

    `names`: the members that took part; `left_out`: name -> "late" or "failed" of the others.
    """

    vectors: Found
    names: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


class Member:
    """One model: its compiled graphs, the states of users where it has some, and what its answers cost."""

    def __init__(self, part: Part, settings: EngineSettings, share: float) -> None:
        self.part, self._settings = part, settings
        self.runner = Runner(part.encoder, part.inputs, settings.threads, part.step)
        self.carry = self._carry(settings.carry_mb * share)
        self.timed = bool({"times", "now"} & set(part.inputs))
        self.cost = f"encode {part.name}"
        self._thread = ThreadPoolExecutor(1, f"millirec-{part.name}")
        self._running: Future[Found] | None = None
        self._told = -_QUIET

    def _carry(self, megabytes: float) -> Carry | None:
        """Room for the states of users, when the model has some."""
        if not self.runner.carries:
            return None
        settings, length = self._settings, self.part.max_length
        size = capacity_of(megabytes, self.part.state_size, length)
        return Carry(self.runner, length, size, (settings.max_batch, settings.max_padding)) if size else None

    def warm_up(self) -> None:
        """One event is encoded. Raises what the graph raises."""
        one = np.ones((1, 1), np.int32)
        self.runner.encode(Batch(one, one[0], one.astype(np.int64), one[0].astype(np.int64)))

    def vectors(self, questions: Sequence[Question]) -> Found:
        """A vector (dim,) for each question, None where nothing known is left."""
        if self.carry is not None:
            return self.carry.vectors(questions)
        return encode_all(
            self.runner.encode,
            [question.items for question in questions],
            self.part.max_length,
            [(question.times, question.now) for question in questions] if self.timed else None,
            (self._settings.max_batch, self._settings.max_padding),
        )

    def run(self, questions: Sequence[Question]) -> Future[Found]:
        """`vectors` here and now: a future that is done."""
        done: Future[Found] = Future()
        try:
            done.set_result(self.vectors(questions))
        except Exception as error:
            done.set_exception(error)
        return done

    def begin(self, questions: Sequence[Question], costs: Costs | None = None) -> Future[Found]:
        """`vectors` in a thread of the member's own, where it notes what it took; questions wait for those before."""

        def run() -> Found:
            begun = time.perf_counter()
            found = self.vectors(questions)
            if costs is not None:
                costs.took(self.cost, (time.perf_counter() - begun) / len(questions))
            return found

        self._running = self._thread.submit(run)
        return self._running

    @property
    def is_busy(self) -> bool:
        """Whether it still works on something that others may have given up waiting for."""
        return self._running is not None and not self._running.done()

    def failed(self, error: BaseException) -> None:
        """Log why it is left out, now and then."""
        now = time.monotonic()
        if now - self._told >= _QUIET:
            self._told = now
            log.error("%s is left out of answers: it fails", self.part.name, exc_info=error)


class Members:
    """The models of a bundle; thread-safe. A user vector is their vectors, scaled, side by side.

    Without a deadline all are waited for. Of several, one that fails is left out, as is one whose vector is not
    finite; when there is only one, it raises.
    """

    def __init__(self, parts: Sequence[Part], settings: EngineSettings) -> None:
        self.all = tuple(Member(part, settings, 1 / len(parts)) for part in parts)
        widths = np.cumsum([0, *(part.dim for part in parts)]).tolist()
        self._places = [slice(start, end) for start, end in pairwise(widths)]
        self._dim = widths[-1]
        self._parallel = settings.parallel

    @property
    def are_several(self) -> bool:
        """Whether answers tell who took part."""
        return len(self.all) > 1

    def warm_up(self) -> None:
        """Every graph runs once. Raises what one of them raises."""
        for member in self.all:
            member.warm_up()

    def encode(self, questions: Sequence[Question]) -> Encoded:
        """Vectors of all members, who work in parallel."""
        first, *others = self.all
        if not others:
            return Encoded(first.vectors(questions), (first.part.name,))
        if not self._parallel:
            return self._joined([(member, member.run(questions)) for member in self.all], len(questions), {})
        running = [(member, member.begin(questions)) for member in others]
        ended = [(first, first.run(questions)), *running]
        wait([future for _, future in running])
        return self._joined(ended, len(questions), {})

    def encode_by(self, questions: Sequence[Question], due: float, costs: Costs) -> Encoded:
        """What there is by `due`, in seconds of `perf_counter`.

        Who is not expected to end by then is not begun, who has not ended by then is not waited for any longer; both
        are "late". What a member takes is noted under its own cost, however late; "encode" is the quickest one's.
        """
        left_out, running = dict[str, str](), []
        for member in self.all:
            if member.is_busy or not costs.fits(member.cost, due, len(questions)):
                left_out[member.part.name] = "late"
            else:
                running.append((member, member.begin(questions, costs)))
        wait([future for _, future in running], max(due - time.perf_counter(), 0))
        ended = [(member, future) for member, future in running if future.done()]
        left_out |= {member.part.name: "late" for member, future in running if not future.done()}
        return self._joined(ended, len(questions), left_out)

    def _joined(self, ended: Sequence[tuple[Member, Future[Found]]], n: int, left_out: dict[str, str]) -> Encoded:
        """The vectors of those that have `ended`, each at its place."""
        vectors: list[NDArray[np.float32] | None] = [None] * n
        names = []
        for place, member in enumerate(self.all):
            future = next((future for one, future in ended if one is member), None)
            if future is None:
                continue
            error = future.exception()
            if error is not None:
                if not self.are_several:
                    raise error
                member.failed(error)
                left_out[member.part.name] = "failed"
                continue
            names.append(member.part.name)
            self._add(vectors, future.result(), place)
        return Encoded(vectors, tuple(names), left_out)

    def _add(self, vectors: list[NDArray[np.float32] | None], found: Found, place: int) -> None:
        scale = np.float32(self.all[place].part.scale)
        for at, vector in enumerate(found):
            if vector is None:
                continue
            if not self.are_several:
                vectors[at] = vector
                continue
            whole = vectors[at]
            if whole is None:
                whole = vectors[at] = np.zeros(self._dim, np.float32)
            whole[self._places[place]] = vector * scale
