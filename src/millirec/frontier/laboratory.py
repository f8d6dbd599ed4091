"""`Laboratory`: from a variant to its figures, every expensive product kept. What a frontier and a search stand on."""

from dataclasses import replace
from pathlib import Path

import msgspec

from millirec.bundle import Bundle, PackConfig
from millirec.compress.workshop import Workshop
from millirec.data.dataset import Dataset
from millirec.data.errors import MillirecError
from millirec.frontier.cache import Cache, key_of
from millirec.frontier.config import TEACHER, Measure, Variant
from millirec.frontier.examination import Answers, Examination
from millirec.frontier.host import Host
from millirec.frontier.making import Made, Maker
from millirec.frontier.quality import Contrast, Judge, Quality, contrast
from millirec.frontier.rankers import Rankers
from millirec.frontier.result import Figures
from millirec.frontier.speed import Speed, speed
from millirec.frontier.visit import Visit, visit
from millirec.models.checkpoint import Checkpoint


class Laboratory:
    """Makes variants of one teacher and measures them on one data set, here. `close` it at the end.

    `folder`: where everything is kept by the hash of what decides it; nobody else may work there meanwhile.
    `workshop`: data, machine and journal for the recipes. `pack`: how variants are packed that do not say,
    `ranker`: the folder of the ranker that they have.
    """

    def __init__(
        self,
        teacher: Checkpoint,
        workshop: Workshop,
        measure: Measure,
        folder: Path,
        pack: PackConfig = PackConfig(),  # noqa: B008 - frozen
        ranker: str | None = None,
    ) -> None:
        dataset = workshop.dataset
        self.measure, self.host, self.folder = measure, Host.here(), folder
        self.teacher = Variant(name=TEACHER)
        self._cache = Cache(folder)
        self._cache.tidy()
        kept = replace(workshop, read=lambda: dataset, folder=self._cache.place("steps", "").resolve())
        self._maker = Maker(kept, self._cache, pack, Rankers(ranker, teacher, kept, measure.part))
        self._starts: dict[str | None, Checkpoint] = {None: teacher}
        self._examination = Examination(dataset, measure, folder / "stores", repeats=workshop.repeats)

    @property
    def dataset(self) -> Dataset:
        """The data that all variants are measured on."""
        return self._examination.dataset

    @property
    def ranker_key(self) -> tuple[object, ...]:
        """All that decides the ranker of the teacher; nothing where it has none."""
        return self._maker.rankers.key(self.teacher)

    def figures(self, variant: Variant) -> Figures:
        """All figures of one variant, measured now or taken from the cache; the rounds follow one another.

        Raises ConfigError when a step of its recipe cannot follow, ArtifactError when it cannot be packed.
        """
        visits = [self.visit(variant, number, _ALONE) for number in range(self.measure.rounds)]
        return self.described(variant, speed(visits, (), self.measure.spread))

    def described(self, variant: Variant, measured: Speed) -> Figures:
        """The figures of a variant whose speed has been measured."""
        made = self.make(variant)
        return Figures(
            name=variant.name,
            quality=self.quality(variant),
            speed=measured,
            content_hash=made.content_hash,
            bundle_bytes=made.bytes,
            **{name: getattr(made, name) for name in _TAKEN},
        )

    def make(self, variant: Variant) -> Made:
        """The packed variant. An error names it."""
        try:
            return self._maker.make(variant, self._start(variant))
        except MillirecError as error:
            raise type(error)(f"variant {variant.name!r}: {error.problem}", error.mend) from error

    def is_made(self, variant: Variant) -> bool:
        """Whether `make` only reads."""
        return self._maker.has(variant, self._start(variant))

    def bundle(self, variant: Variant) -> Bundle:
        """The bundle of a variant, verified."""
        return self._maker.bundle(self.make(variant))

    def answers(self, variant: Variant) -> Answers:
        """What the variant answers to the held-out questions."""
        return self._examination.take(self.bundle(variant), variant.engine, self._cache)

    def is_examined(self, variant: Variant) -> bool:
        """Whether `answers` only reads."""
        return self.is_made(variant) and self._cache.place("answers", self._answers_key(variant)).exists()

    def quality(self, variant: Variant) -> Quality:
        """The figures of its answers, held against the teacher's."""
        key = key_of(self._answers_key(variant), self._answers_key(self.teacher))
        return self._cache.kept(Quality, "quality", key, lambda: self._judge().quality(self.answers(variant)))

    def contrast(self, a: Variant, b: Variant) -> Contrast:
        """NDCG@10 of `a` minus that of `b`, paired by user."""
        return contrast(self.answers(a), self.answers(b))

    def visit(self, variant: Variant, number: int, turn: str = "first") -> Visit:
        """One measurement of its speed, in round `number`; `turn` tells two of the same round apart."""
        measure = self.measure
        return self._cache.kept(
            Visit,
            "visits",
            self._visit_key(variant, number, turn),
            lambda: visit(self.bundle(variant), variant.engine, measure, number),
        )

    def is_visited(self, variant: Variant, number: int, turn: str = "first") -> bool:
        """Whether `visit` only reads."""
        return self.is_made(variant) and self._cache.has("visits", self._visit_key(variant, number, turn))

    def close(self) -> None:
        """Delete what is not to be kept."""
        self._examination.close()

    def _start(self, variant: Variant) -> Checkpoint:
        where = variant.checkpoint
        if where not in self._starts:
            self._starts[where] = Checkpoint.load(Path(str(where)))
        return self._starts[where]

    def _judge(self) -> Judge:
        return Judge(self.answers(self.teacher), len(self._examination.dataset.items))

    def _answers_key(self, variant: Variant) -> str:
        return self._examination.key_for(self.make(variant).content_hash, variant.engine)

    def _visit_key(self, variant: Variant, number: int, turn: str) -> str:
        loaded = msgspec.structs.replace(
            self.measure, part="test", users=0, rounds=1, spread=1.0
        )  # these change nothing
        return key_of(self.make(variant).content_hash, variant.engine, loaded, self.host, number, turn)


_ALONE = "alone"  # not in turn with others: of no use to a frontier
_TIMES = ("training_seconds", "compression_seconds")
_TAKEN = ("model", "lineage", *_TIMES, "zeros", "parameters", "kernels", "ranker", "counts")
