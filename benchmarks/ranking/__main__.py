"""Rankers on MovieLens-1M as click-through rates, beside what others have published.

    python -m benchmarks.ranking --resume                                        every run of the plan
    python -m benchmarks.ranking --fields published --only lr fm --seeds 1 2 3   some of them
    python -m benchmarks.ranking --table                                         only make docs/ranking-results.md again

A run is a ranker (specs/RANKER.toml), a set of features (fields/FIELDS.toml), a protocol, a seed and, of random rows, a
split; it goes through `millirec train` in a process of its own and leaves one file in benchmarks/results/ranking/.
Settings were chosen on validation rows; the test part is read once a run, at its end.
"""

import argparse

from benchmarks.ranking import table
from benchmarks.ranking.runs import PROTOCOLS, Settings, names, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", nargs="*", choices=names("fields"), default=names("fields"))
    parser.add_argument("--protocol", nargs="*", choices=list(PROTOCOLS), default=list(PROTOCOLS))
    parser.add_argument("--only", nargs="*", choices=names("specs"), default=names("specs"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[42])
    parser.add_argument("--splits", nargs="*", type=int, default=[0], help="of the random rows")
    parser.add_argument("--threads", type=int, default=1, help="0 = all cores")
    parser.add_argument("--resume", action="store_true", help="leave finished runs alone, go on with those cut short")
    parser.add_argument("--table", action="store_true", help="make the table from the results that are there")
    options = parser.parse_args()
    if not options.table:
        for settings in planned(options):
            run(settings, resume=options.resume)
    table.write()


def planned(options: argparse.Namespace) -> list[Settings]:
    """Every run that the options ask for; an attention over the history needs a history."""
    return [
        Settings(fields=fields, protocol=protocol, ranker=ranker, seed=seed, threads=options.threads, split=split)
        for fields in options.fields
        for protocol in options.protocol
        for ranker in options.only
        for seed in options.seeds
        for split in (options.splits if protocol == "random-rows" else [0])
        if ranker != "din" or fields == "history"
    ]


if __name__ == "__main__":
    main()
