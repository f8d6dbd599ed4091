"""Networks with what was counted beside them, as rows of docs/quality.md, measured through the engine that serves.

    python -m benchmarks.quality.beside beauty leave-last-out sasrec markov item-knn [--seeds 1 2 42]

The runs of the network and of the baselines must be there. `millirec pack --beside` fits the gains on the validation
part; figures are those of `millirec evaluate BUNDLE`, its lists those of the server. Minutes and memory are those of
all runs together.
"""

from benchmarks.quality import table
from benchmarks.quality.ensemble import asked, labels_of, parsed, write
from benchmarks.quality.train import RUNS


def main() -> None:
    """Pack, replay, write."""
    options = parsed(__doc__)
    for seed in options.seeds:
        labels = labels_of(options, seed)
        network, *others = [str(RUNS / label / "checkpoint") for label in labels]
        slug = f"{options.members[0]}-beside-{'-'.join(options.members[1:])}"
        bundle = RUNS / f"{options.set}-{options.protocol}-{slug}-{seed}.bundle"
        beside = [word for other in others for word in ("--beside", other)]
        packed = asked("pack", network, *beside, "-o", str(bundle))
        found = asked("evaluate", str(bundle))[0]
        told = {"model": f"{options.members[0]} beside {', '.join(options.members[1:])}, as served"}
        told |= {"config": {"members": labels, "counts": packed["counts"]}, "bundle_bytes": size(packed)}
        write(labels, slug, told | {"figures": found["figures"], "engine": found.get("engine")})
    table.write()


def size(manifest: dict[str, dict[str, dict[str, int]]]) -> int:
    """Bytes of all files."""
    return sum(entry["bytes"] for entry in manifest["files"].values())


if __name__ == "__main__":
    main()
