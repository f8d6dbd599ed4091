"""Packing and opening: parity, what is refused and how it is said, and that opening needs no torch."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from millirec.bundle import PackConfig, open_bundle, pack, packing
from millirec.bundle.manifest import entry_of, sealed
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, ConfigError, MillirecError
from millirec.data.tensors import load_tensors, save_tensors
from millirec.index import ExactConfig, PQConfig
from millirec.models.base import Inputs, SequenceModel
from millirec.models.config import EASEConfig, GRU4RecConfig, ItemKNNConfig, PopularityConfig, build
from millirec.models.export import export, parity_error, random_batch
from tests.bundles import tiny_bundle, untrained

GOLDEN = Path(__file__).parent / "golden" / "v1"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, reseal: bool = True) -> None:
    """Edit the manifest as an attacker would who knows how the content hash is made."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    if reseal:
        manifest = sealed(manifest)
    path.write_text(json.dumps(manifest))


# --- what packing gives


def test_what_a_bundle_says(packed: Path) -> None:
    bundle = open_bundle(packed)
    manifest = bundle.manifest
    assert (bundle.name, bundle.max_length, bundle.inputs) == ("tiny", 20, ("items", "lengths"))
    assert (manifest.schema, manifest.n_items, manifest.dim) == (1, 60, 16)
    assert manifest.model["kind"] == "sasrec"
    assert manifest.index == ExactConfig()
    assert manifest.index_recall == 1
    assert manifest.parity_error < 1e-5
    assert len(bundle.version) == 12
    assert bundle.popularity[:3].tolist() == [0, 59, 58]
    assert bundle.catalog.vocabulary.ids[:2] == ("i1", "i2")
    assert set(manifest.files) == {path.name for path in packed.iterdir()} - {"manifest.json"}
    for name, entry in manifest.files.items():
        data = (packed / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_index_holds_the_item_vectors(packed: Path) -> None:
    vectors = untrained().network().item_vectors().detach().numpy()
    rows = np.arange(1, 61, dtype=np.int32)
    assert np.array_equal(open_bundle(packed).index.vectors(rows), vectors[1:])


def test_packing_twice_gives_the_same_content(packed: Path, tmp_path: Path) -> None:
    again = pack(untrained(), tmp_path / "again", PackConfig(name="tiny"))
    assert again.manifest.content_hash == open_bundle(packed).manifest.content_hash
    other = pack(untrained(), tmp_path / "other", PackConfig(name="other"))
    assert other.version != again.version


def test_everybody_may_read_the_files(packed: Path) -> None:
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in packed.iterdir())


def test_no_path_of_the_packing_machine_is_inside(packed: Path) -> None:
    for path in packed.iterdir():
        assert str(Path(packing.__file__).parents[1]).encode() not in path.read_bytes(), path.name


def test_an_older_bundle_is_replaced_and_nothing_is_left_over(tmp_path: Path) -> None:
    target = tmp_path / "b"
    gru = untrained(30, GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10))
    pack(gru, target, PackConfig(index=PQConfig()))
    shutil.copy(target / "tensors.safetensors", target / "index.faiss")  # as older bundles had one
    bundle = pack(gru, target, PackConfig())
    assert bundle.name == "gru4rec"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert not (target / "index.faiss").exists()


def test_a_compressed_index_comes_with_its_measured_recall(tmp_path: Path) -> None:
    gru = untrained(400, GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10))
    packed = pack(gru, tmp_path / "b", PackConfig(index=PQConfig(codes=1, refine=10)))
    assert 0 < packed.manifest.index_recall < 1
    back = open_bundle(tmp_path / "b")
    assert back.manifest.index == PQConfig(codes=1, refine=10)
    assert back.index.search(np.ones((1, 8), np.float32), 3).rows.min() > 0
    assert pack(gru, tmp_path / "b", PackConfig(index=PQConfig())).manifest.index_recall > 0.95


def test_the_index_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packing, "EXACT_BELOW", 30)
    config = GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10)
    for n_items, kind in ((29, ExactConfig), (30, PQConfig)):
        assert isinstance(pack(untrained(n_items, config), tmp_path / str(n_items)).manifest.index, kind)


# --- what packing refuses


@pytest.mark.parametrize("config", [PopularityConfig(), ItemKNNConfig(), EASEConfig()])
def test_a_model_without_user_vectors_is_refused(config: Any, tmp_path: Path) -> None:
    kind = msgspec.to_builtins(config)["kind"]
    with pytest.raises(ConfigError, match=rf'\$\.model\.kind = "{kind}" has no user vectors'):
        pack(untrained(20, config), tmp_path / "b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["holiday.jpg", "checkpoint.json", ".git"])
def test_a_folder_that_is_no_bundle_is_left_alone(name: str, tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / name).write_text("precious")
    with pytest.raises(ArtifactError, match=f"it holds `{name}`"):
        pack(untrained(), target)
    assert (target / name).read_text() == "precious"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        pack(untrained(), tmp_path / "b")


def test_a_network_that_computes_nan_is_refused_and_the_old_bundle_stays(tmp_path: Path) -> None:
    gru = untrained(30, GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10))
    old = pack(gru, tmp_path / "b")
    gru.parameters["project.bias"] = torch.full_like(gru.parameters["project.bias"], torch.nan)
    with pytest.raises(ArtifactError, match="differs from the network by inf"):
        pack(gru, tmp_path / "b")
    assert open_bundle(tmp_path / "b").version == old.version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_a_graph_of_other_parameters_does_not_pass_the_parity_check(packed: Path) -> None:
    own, other = untrained().network(), untrained(seed=1).network()
    assert isinstance(own, SequenceModel)
    assert isinstance(other, SequenceModel)
    assert parity_error(own, open_bundle(packed).encoder, 60, 20) < 1e-5
    assert parity_error(other, open_bundle(packed).encoder, 60, 20) > 0.1


@pytest.mark.parametrize(
    ("field", "value"), [("name", " "), ("tolerance", 0.0), ("tolerance", float("nan")), ("tolerance", 2.0)]
)
def test_settings_that_cannot_work(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.pack\.{field}"):
        PackConfig(**{field: value})


# --- what opening refuses


def test_no_single_byte_may_change(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for at in {0, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 25))}:
            changed = bytearray(whole)
            changed[at] ^= 0x10
            path.write_bytes(changed)
            with pytest.raises(ArtifactError, match=path.name):
                open_bundle(copy)
        path.write_bytes(whole)
    open_bundle(copy)


def test_a_truncated_or_grown_file(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for other in (whole[:-1], b"", whole + b"\x00"):
            path.write_bytes(other)
            with pytest.raises(ArtifactError, match=f"{path.name}.*(packed were|not a manifest)"):
                open_bundle(copy)
        path.write_bytes(whole)


def test_a_missing_file(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        moved = path.rename(copy.parent / "elsewhere")
        with pytest.raises(ArtifactError, match=f"{path.name}: missing"):
            open_bundle(copy)
        moved.rename(path)


def test_a_link_in_place_of_a_file(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        moved = path.rename(copy.parent / "elsewhere")
        path.symlink_to(moved)
        with pytest.raises(ArtifactError, match=f"{path.name}: is a link"):
            open_bundle(copy)
        path.unlink()
        moved.rename(path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        open_bundle(tmp_path / "nothing")


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema(copy: Path, schema: Any) -> None:
    rewrite(copy, lambda m: m.update(schema=schema))
    with pytest.raises(ArtifactError, match=f"schema {schema}, this version of millirec reads 1"):
        open_bundle(copy)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "created": lambda m: m.update(created="1970-01-01T00:00:00+00:00"),
    "content_hash": lambda m: m.update(content_hash="0" * 64),
    "seal": lambda m: m.pop("seal"),
    "name": lambda m: m.update(name="better"),
    "metrics": lambda m: m["metrics"].update({"ndcg@10": 0.9}),
    "recall": lambda m: m.update(index_recall=0.5),
    "cascade": lambda m: m["cascade"].update(filters=[]),
    "sha256": lambda m: m["files"]["tensors.safetensors"].update(sha256="0" * 64),
    "provenance": lambda m: m["provenance"].update(protocol="another"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_manifest(copy: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    rewrite(copy, edit, reseal=False)
    with pytest.raises(ArtifactError, match="changed after packing"):
        open_bundle(copy)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "parent": (lambda m: m["files"].update({"../x": m["files"]["tensors.safetensors"]}), "not a plain file name"),
    "absolute": (lambda m: m["files"].update({"/etc/passwd": m["files"]["tensors.safetensors"]}), "not a plain"),
    "backslash": (lambda m: m["files"].update({"..\\x": m["files"]["tensors.safetensors"]}), "not a plain"),
    "hidden": (lambda m: m["files"].update({".x": m["files"]["tensors.safetensors"]}), "not a plain"),
    "newline": (lambda m: m["files"].update({"x\n": m["files"]["tensors.safetensors"]}), "not a plain"),
    "unknown": (lambda m: m["files"].update({"run.py": m["files"]["tensors.safetensors"]}), "`run.py`, unknown"),
    "itself": (lambda m: m["files"].update({"manifest.json": m["files"]["tensors.safetensors"]}), "unknown"),
    "fewer": (lambda m: m["files"].pop("catalog.safetensors"), "does not name `catalog.safetensors`"),
    "index": (lambda m: m.update(index={"kind": "pq"}), "item index cannot be read"),
    "kind": (lambda m: m.update(index={"kind": "magic"}), "not a manifest"),
    "setting": (lambda m: m.update(index={"kind": "pq", "probes": 0}), "not a manifest"),
    "field": (lambda m: m.update(run="rm -rf"), "not a manifest.*run"),
    "type": (lambda m: m.update(max_length="20"), r"not a manifest.*max_length"),
    "items": (lambda m: m.update(n_items=61), "the catalog has 60 items, the manifest says 61"),
    "width": (lambda m: m.update(dim=17), "the index is 16 wide, not 17"),
    "inputs": (lambda m: m.update(inputs=["items", "secrets"]), "graph inputs"),
    "length": (lambda m: m.update(max_length=0), "max_length = 0"),
    "sha256": (
        lambda m: m["files"]["tensors.safetensors"].update(sha256="0" * 64),
        r"tensors\.safetensors: was changed",
    ),
    "bytes": (lambda m: m["files"]["tensors.safetensors"].update(bytes=7), r"tensors\.safetensors: .* packed were 7"),
}


@pytest.mark.parametrize(("edit", "says"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_manifest(copy: Path, edit: Callable[[dict[str, Any]], object], says: str) -> None:
    rewrite(copy, edit)
    with pytest.raises(ArtifactError, match=says):
        open_bundle(copy)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"schema": 1}', b"[" * 5000])
def test_what_is_no_manifest(copy: Path, text: bytes) -> None:
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json: (not a manifest|schema None)"):
        open_bundle(copy)


@pytest.mark.parametrize("part", ["index", "popularity"])
def test_parts_of_another_bundle(copy: Path, part: str, tmp_path: Path) -> None:
    config = GRU4RecConfig(embedding_dim=16, hidden_dim=8, max_length=20)
    other = pack(untrained(59, config), tmp_path / "other").tensors
    path = copy / "tensors.safetensors"
    save_tensors(load_tensors(path) | {name: other[name] for name in other if name.startswith(part)}, path)
    rewrite(copy, lambda m: m["files"].update({path.name: msgspec.to_builtins(entry_of(path))}))
    with pytest.raises(ArtifactError, match=f"the {part} has 59 items, the manifest says 60"):
        open_bundle(copy)


def test_a_crash_between_the_renames_is_mended(copy: Path) -> None:
    copy.rename(copy.with_name(f".{copy.name}.old"))
    assert open_bundle(copy).name == "tiny"


def test_every_refusal_is_one_line_with_a_mend(copy: Path) -> None:
    (copy / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(MillirecError) as caught:
        open_bundle(copy)
    assert caught.value.mend
    assert "\n" not in str(caught.value)


# --- serving needs no torch, and the oldest bundle opens for ever


def test_opening_needs_no_torch(packed: Path) -> None:
    blocked = "torch", "polars", "scipy", "onnx", "onnxscript", "pandas"
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from pathlib import Path
import numpy, millirec.index
from millirec.bundle import open_bundle
bundle = open_bundle(Path({str(packed)!r}))
print(bundle.version, bundle.index.search(numpy.ones((1, 16), "float32"), 2).rows.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [open_bundle(packed).version, "(1,", "2)"]


def test_the_golden_bundle_opens_and_answers_as_ever() -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
    bundle = open_bundle(GOLDEN / "bundle")
    assert bundle.version == expected["version"]
    rows = [bundle.catalog.vocabulary.rows(history) for history in expected["histories"]]
    batch = encode(rows, None, bundle.max_length)
    session = bundle.encoder.session()
    vectors = session.run(["user_vectors"], {name: getattr(batch, name) for name in bundle.inputs})[0]
    assert np.allclose(vectors, expected["user_vectors"], atol=1e-5)
    found = bundle.index.search(vectors, 5)
    assert [[bundle.catalog.vocabulary.id(row) for row in line] for line in found.rows] == expected["top"]
    assert np.allclose(found.scores, expected["scores"], atol=1e-4)
    assert set(bundle.catalog.features) == {"kind", "genre", "year", "title"}
    assert np.flatnonzero(bundle.catalog.matches("kind", "série"))[:3].tolist() == [1, 3, 7]
    assert bundle.catalog.matches("genre", "Comedy")[:4].tolist() == [False, True, False, True]


def test_the_golden_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in (GOLDEN / "bundle").rglob("*") if path.is_file()) < 200_000


# --- the exporter


class Timed(torch.nn.Module):
    """A network that reads only items and times: what `Inputs` names is what the graph asks for."""

    inputs = ("items", "times")

    def __init__(self) -> None:
        super().__init__()
        self.item = torch.nn.Embedding(20, 4)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.item(inputs.items)

    def user_vectors(self, inputs: Inputs) -> torch.Tensor:
        days = (inputs.times % 7).float().unsqueeze(-1)
        return (self.item(inputs.items) * days).sum(dim=1)

    def item_vectors(self) -> torch.Tensor:
        return self.item.weight


def test_a_graph_asks_for_what_its_network_reads(tmp_path: Path) -> None:
    network = Timed().eval()
    graph = export(network, 19)
    session = graph.session()
    assert [(i.name, i.type) for i in session.get_inputs()] == [
        ("items", "tensor(int32)"),
        ("times", "tensor(int64)"),
    ]
    assert parity_error(network, graph, 19, 9) < 1e-5


class Fixed(Timed):
    """A network that no graph with a free length can say."""

    def user_vectors(self, inputs: Inputs) -> torch.Tensor:
        return self.item(inputs.items)[:, : int(inputs.items.numpy().max())].sum(dim=1)


def test_a_network_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written as a graph"):
        export(Fixed().eval(), 19)


def test_random_histories_are_padded_as_encode_pads() -> None:
    batch = random_batch(9, 6, 5, seed=0, popularity=np.array([0, *[0] * 8, 10_000]))
    assert batch.lengths.max() == 5
    places = np.arange(5) >= batch.lengths[:, None]
    assert (batch.items[places] == 0).all()
    assert (batch.times[places] == 0).all()
    assert (batch.items[~places] == 9).mean() > 0.9
    assert build(GRU4RecConfig(max_length=5), 9).eval().user_vectors(Inputs.of(batch)).isfinite().all()
