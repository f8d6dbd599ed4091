"""What may be compared: the same data, split and targets."""

from pathlib import Path

import msgspec
import pytest

from millirec.cli.artifact import Artifact, alike
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.errors import ArtifactError
from millirec.data.lineage import Provenance

ONE = Provenance(fingerprint="f", protocol="leave-last-out", n_events=9, trained_until=8)


def artifact(name: str, *, repeats: bool = False, **changed: str) -> Artifact:
    provenance = msgspec.structs.replace(ONE, **changed)
    catalog = Catalog(Vocabulary(["i1"]))
    return Artifact(path=Path(name), bundled=False, provenance=provenance, catalog=catalog, repeats=repeats)


def test_the_same_data_split_and_targets_may_be_compared() -> None:
    alike([artifact("a"), artifact("b"), artifact("c")])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (artifact("b", fingerprint="g"), "a and b cannot be compared: different data, f and g"),
        (artifact("b", protocol="global-time"), "different splits, leave-last-out and global-time"),
        (artifact("b", repeats=True), "different targets"),
    ],
)
def test_others_are_refused_in_one_line(other: Artifact, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        alike([artifact("a"), artifact("c"), other])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither a checkpoint nor a bundle"):
        Artifact.open(tmp_path)
