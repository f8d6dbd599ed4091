"""Quality of our models on public data sets, beside what others have published.

    python -m benchmarks.quality                                            every set, every model with a spec, seed 42
    python -m benchmarks.quality --set beauty --only sasrec --seeds 1 2 3 --resume
    python -m benchmarks.quality --set ml1m --protocol global-time          trained and measured on a cut in time
    python -m benchmarks.quality --table                                    only make docs/quality.md again

A data set's models are trained under each of its protocols, so that both stand side by side: a model that was trained
for leave-last-out has seen events that are newer than the cut of a split by time, and cannot be measured there. With
--resume, runs whose results are there are left alone and a run that was cut short goes on.
"""

import argparse

from benchmarks.quality import table
from benchmarks.quality.sets import models, names, read_set
from benchmarks.quality.train import Settings, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="*", choices=names(), default=names(), dest="sets")
    parser.add_argument("--only", nargs="*", help="models, by the names of their specs")
    parser.add_argument("--protocol", help="one protocol only, such as global-time")
    parser.add_argument("--seeds", nargs="*", type=int, default=[42])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    parser.add_argument("--resume", action="store_true", help="leave finished runs alone, go on with those cut short")
    parser.add_argument("--table", action="store_true", help="make the table from the results that are there")
    options = parser.parse_args()
    if not options.table:
        for settings in planned(options):
            run(settings, resume=options.resume)
    table.write()


def planned(options: argparse.Namespace) -> list[Settings]:
    """Every run that the options ask for. Ends the program when they ask for nothing."""
    found = []
    for name in options.sets:
        for model in options.only or models(name):
            for protocol in read_set(name).protocols:
                if model in models(name) and options.protocol in (None, protocol):
                    where = {"set": name, "protocol": protocol, "model": model}
                    machine = {"device": options.device, "threads": options.threads}
                    found += [Settings(**where, **machine, seed=seed) for seed in options.seeds]
    if not found:
        raise SystemExit("no spec fits these options -> see benchmarks/quality/specs")
    return found


if __name__ == "__main__":
    main()
