"""A ranker in a bundle: what is packed, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from millirec.bundle import PackConfig, open_bundle, pack
from millirec.bundle.ranker import PRE_RANKER
from millirec.bundle.ranker import RANKER as FILES
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.features import Featuriser, known_events, sides_of
from millirec.data.labels import labels_of
from tests.ranked import LABEL, history, light, opened, part, pre_ranked_bundle, ranked_bundle, rankers


def test_the_manifest_tells_of_the_ranker() -> None:
    bundle, checkpoint = opened(), rankers()[1]
    told = bundle.manifest.ranker
    assert told is not None
    assert told.model["kind"] == "dnn"
    assert told.checkpoint == checkpoint.content_hash
    assert told.provenance == checkpoint.provenance
    assert told.weights == "fp32"
    assert told.parity_error < 1e-4
    data = history()
    first = data.interactions.times[data.roles == 2].min()
    assert told.known_until < first
    assert told.n_events == int((data.interactions.times < first).sum())
    assert set(bundle.manifest.files) > set(FILES)
    assert bundle.cascade.ranker is not None


def test_it_keeps_what_the_features_read_alone() -> None:
    ranker = opened().ranker
    assert ranker is not None
    assert set(ranker.featuriser.items.features) == {"shop", "tags", "price"}
    assert set(ranker.featuriser.users.features) == {"plan"}
    assert ranker.featuriser.learned == rankers()[1].featuriser.learned


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = ranked_bundle(tmp_path)
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="was changed"):
        open_bundle(folder)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    folder = ranked_bundle(tmp_path)
    (folder / "ranker.json").unlink()
    with pytest.raises(ArtifactError, match=r"ranker\.json: missing"):
        open_bundle(folder)


def test_the_version_depends_on_what_the_features_know(tmp_path: Path) -> None:
    model, _, data = rankers()
    everything = known_events(data, labels_of(data, LABEL), test=True)
    other = pack(model, tmp_path / "b", None, replace(part(), known=everything))
    assert other.version != opened().version
    assert other.manifest.ranker is not None
    assert other.manifest.ranker.known_until == int(data.interactions.times.max())


def test_a_ranker_of_other_items_is_refused(tmp_path: Path) -> None:
    model = rankers()[0]
    moved = replace(model, catalog=Catalog(Vocabulary(["i1", "i3", "i2", *(f"i{n}" for n in range(4, 9))])))
    with pytest.raises(ConfigError, match="row 2 is 'i2' to the ranker, 'i3' to the model"):
        pack(moved, tmp_path / "b", None, part())
    assert not (tmp_path / "b").exists()


def test_another_order_of_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would read each feature as another one, and say nothing."""
    folder = pack(rankers()[0], tmp_path / "b", None, part()).folder
    sides = sides_of(rankers()[1].featuriser)
    turned = sides._replace(row=sides.row._replace(numbers=sides.row.numbers[::-1]))
    assert turned != sides
    monkeypatch.setattr("millirec.bundle.ranker.sides_of", lambda _: turned)
    with pytest.raises(ArtifactError, match="another order"):
        open_bundle(folder)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model, ranker, _ = rankers()
    broken = {name: torch.full_like(value, torch.nan) for name, value in ranker.parameters.items()}
    with pytest.raises(ArtifactError, match="differs from its network"):
        pack(model, tmp_path / "b", None, replace(part(), checkpoint=replace(ranker, parameters=broken)))
    with pytest.raises(ConfigError, match="choose fp32 or int8"):
        pack(model, tmp_path / "b", None, part(weights="int4"))


def test_a_pre_ranker_lies_beside_the_ranker(tmp_path: Path) -> None:
    plain, bundle = opened(), open_bundle(pre_ranked_bundle(tmp_path))
    told = bundle.manifest.pre_ranker
    assert told is not None
    assert (told.model["kind"], told.checkpoint) == ("lr", light().checkpoint.content_hash)
    assert set(bundle.manifest.files) == set(plain.manifest.files) | set(PRE_RANKER)
    assert all(bundle.manifest.files[name] == plain.manifest.files[name] for name in FILES)
    assert bundle.pre_ranker is not None
    assert bundle.pre_ranker.featuriser.fields == light().checkpoint.featuriser.fields
    name = PRE_RANKER.tensors
    data = bytearray((bundle.folder / name).read_bytes())
    data[-2] ^= 1
    (bundle.folder / name).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="was changed"):
        open_bundle(bundle.folder)
    (bundle.folder / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        open_bundle(bundle.folder)


def test_a_pre_ranker_is_in_the_cascade_unless_that_is_told(tmp_path: Path) -> None:
    bundle = pack(rankers()[0], tmp_path / "b", None, part(pre=light()))
    assert [stage.__struct_config__.tag for stage in bundle.cascade.scorers] == [
        "inner-product",
        "pre-ranker",
        "ranker",
    ]
    asks = PackConfig(cascade=bundle.cascade)
    with pytest.raises(ConfigError, match="the bundle has no pre-ranker"):
        pack(rankers()[0], tmp_path / "c", asks, part())
    with pytest.raises(ConfigError, match="a pre-ranker of its own"):
        pack(rankers()[0], tmp_path / "c", None, part(pre=part(pre=light())))
    moved = replace(light(), checkpoint=replace(light().checkpoint, featuriser=_of_other_items()))
    with pytest.raises(ConfigError, match="row 1 is 'x1' to the ranker"):
        pack(rankers()[0], tmp_path / "c", None, part(pre=moved))
    assert not (tmp_path / "c").exists()


def _of_other_items() -> Featuriser:
    own = light().checkpoint.featuriser
    others = Catalog(Vocabulary([f"x{row}" for row in range(1, len(own.items) + 1)]))
    return Featuriser(own.fields, own.learned, own.users, others)


def test_a_bundle_without_a_ranker_is_packed_as_ever(tmp_path: Path) -> None:
    bundle = pack(rankers()[0], tmp_path / "b")
    told = json.loads((bundle.folder / "manifest.json").read_text())
    assert not {"ranker", "pre_ranker"} & set(told)
    assert bundle.ranker is None
    assert bundle.cascade.ranker is None
    assert not np.any([name in bundle.manifest.files for name in FILES])
