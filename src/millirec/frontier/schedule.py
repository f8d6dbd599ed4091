"""In which order variants are visited."""

from collections.abc import Iterator, Sequence

from millirec.frontier.config import Measure, Variant
from millirec.train.machine import generator

FIRST, AGAIN = "first", "again"


def schedule(variants: Sequence[Variant], measure: Measure) -> Iterator[tuple[int, str, Variant]]:
    """Round after round over all variants: number, turn, variant.

    Each round begins with the first variant and ends with it, so that what the machine did meanwhile shows; the
    others come in another order each time.
    """
    for number in range(measure.rounds):
        yield number, FIRST, variants[0]
        for i in generator(measure.seed, 42, number).permutation(len(variants) - 1):
            yield number, FIRST, variants[int(i) + 1]
        yield number, AGAIN, variants[0]
