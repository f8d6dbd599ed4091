"""Arrays in few bytes: everything comes back bit for bit."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from millirec.data import tensors
from millirec.data.codes import pack, unpack
from millirec.data.errors import ArtifactError
from millirec.data.tensors import load_tensors, save_tensors

KINDS = st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_])


@settings(max_examples=60, deadline=None)
@given(st.data(), KINDS)
def test_every_array_comes_back_bit_for_bit(tmp_path_factory, data, kind):
    path = tmp_path_factory.mktemp("t") / "x"
    array = data.draw(hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)))
    with np.errstate(all="ignore"):
        zeroed = array * np.zeros_like(array) if data.draw(st.booleans()) and kind != np.bool_ else array
        save_tensors({"a": array, "b": zeroed, "c": array}, path)
    found = load_tensors(path)
    for name, want in (("a", array), ("b", zeroed), ("c", array)):
        assert found[name].dtype == want.dtype
        assert found[name].shape == want.shape
        assert found[name].tobytes() == want.tobytes()
    assert found["a"] is found["c"]


@pytest.mark.parametrize(
    ("make", "bytes_a_number"),
    [
        (lambda x: x, 4.0),
        (lambda x: x.astype(np.float16).astype(np.float32), 2.0),
        (lambda x: (x.view(np.uint32) & 0xFFFF0000).view(np.float32), 2.0),
        (lambda x: np.where(np.abs(x) > 1.645, x, np.float32(0)), 0.1 * 4 + 1 / 8),
    ],
    ids=["floats", "halves", "brain floats", "nine in ten are zeros"],
)
def test_numbers_take_no_more_room_than_they_need(tmp_path, make, bytes_a_number):
    x = make(np.random.default_rng(0).standard_normal(100_000).astype(np.float32))
    save_tensors({"x": x}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size <= bytes_a_number * x.size * 1.02 + 400
    assert load_tensors(tmp_path / "x")["x"].tobytes() == x.tobytes()


@pytest.mark.parametrize(
    ("make", "bytes_a_number"),
    [
        (lambda rng: rng.integers(0, 60_000, 50_000), 2.0),
        (lambda rng: rng.integers(-128, 128, 50_000), 1.0),
        (lambda rng: rng.integers(0, 256, 50_000).cumsum(), 1.0),
        (lambda rng: (rng.random(50_000) < 0.3).cumsum().astype(np.int32), 0.13),
    ],
    ids=["up to 60,000", "bytes", "steps", "ones and twos of a bit"],
)
def test_whole_numbers_are_as_narrow_as_they_are(tmp_path, make, bytes_a_number):
    x = make(np.random.default_rng(0))
    save_tensors({"x": x}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size <= bytes_a_number * x.size * 1.05 + 400
    found = load_tensors(tmp_path / "x")["x"]
    assert found.dtype == x.dtype
    assert np.array_equal(found, x)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.sampled_from([np.int16, np.uint32, np.int64]))
def test_rising_numbers_come_back(tmp_path_factory, steps, kind):
    path, x = tmp_path_factory.mktemp("t") / "x", np.cumsum(steps).astype(kind)
    save_tensors({"x": x, "down": x[::-1].copy(), "negative": (-x.astype(np.int64))}, path)
    found = load_tensors(path)
    assert np.array_equal(found["x"], x)
    assert np.array_equal(found["down"], x[::-1])
    assert np.array_equal(found["negative"], -x.astype(np.int64))


def test_text_is_packed_by_blocks_where_that_is_smaller(tmp_path):
    words = ["the", "of", "love", "night", "day", "story", "man", "returns", "last", "blue"]
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(words, 20_000)).encode()
    save_tensors({"x": np.frombuffer(text, np.uint8)}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 0.95 * len(zlib.compress(text, 9))
    assert load_tensors(tmp_path / "x")["x"].tobytes() == text
    retold(tmp_path / "x", f"[{len(text)}]", "[10000]")
    with pytest.raises(ArtifactError, match="longer than its shape"):
        load_tensors(tmp_path / "x")


def test_equal_arrays_are_kept_once(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, 10_000).astype(np.uint8)
    save_tensors({"x": x, "y": x.copy(), "z": x.view(np.int8)}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 20_000 + 600


def test_the_same_numbers_in_other_shapes_are_kept_once(tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    shapes = {"x": (40, 50), "y": (2000,), "z": (2, 20, 50)}
    save_tensors({name: x.reshape(shape) for name, shape in shapes.items()}, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < x.nbytes + 600
    back = load_tensors(tmp_path / "x")
    for name, shape in shapes.items():
        assert np.array_equal(back[name], x.reshape(shape))
        assert np.shares_memory(back[name], back["x"])
    empty = {"a": np.zeros((0, 3)), "b": np.zeros((5, 0)), "c": np.array(1.5), "d": np.array([1.5])}
    save_tensors(empty, tmp_path / "x")
    assert {name: array.shape for name, array in load_tensors(tmp_path / "x").items()} == {
        "a": (0, 3),
        "b": (5, 0),
        "c": (),
        "d": (1,),
    }


def test_damage_is_refused(tmp_path):
    save_tensors({"x": np.zeros(1000, np.float32)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x").write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match="cannot be read"):
            load_tensors(tmp_path / "x")
    (tmp_path / "x").write_bytes(whole)
    retold(tmp_path / "x", "[1000]", "[9999]")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_tensors(tmp_path / "x")


def retold(path, old, new):
    """A file whose list of arrays says something else."""
    arrays = load_file(path)
    told = zlib.decompress(arrays["entries"].tobytes()).decode()
    assert old in told
    arrays["entries"] = np.frombuffer(zlib.compress(told.replace(old, new).encode()), np.uint8)
    save_file(arrays, path, {"millirec.tensors": "deflated"})


def test_a_list_that_swells_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "_LONGEST", 1000)
    save_tensors({f"x{i}": np.array([i]) for i in range(100)}, tmp_path / "x")
    with pytest.raises(ArtifactError, match="too long"):
        load_tensors(tmp_path / "x")


def test_many_small_arrays_cost_little_more_than_their_bytes(tmp_path):
    arrays = {f"encoder/network.blocks.{i}.scale": np.full(4, i + 0.1) for i in range(100)}
    save_tensors(arrays, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 100 * (4 * 8 + 70) + 1500
    assert list(load_tensors(tmp_path / "x")) == list(arrays)


@given(st.sampled_from([2, 4, 8]), st.integers(0, 5), st.integers(0, 4), st.randoms())
def test_packed_codes_come_back(bits, rows, groups, random):
    numbers = np.array([[random.randrange(2**bits) for _ in range(groups * 8)] for _ in range(rows)], np.uint8)
    numbers = numbers.reshape(rows, groups * 8)
    packed = pack(numbers, bits)
    assert packed.shape == (rows, groups * bits)
    assert np.array_equal(unpack(packed, bits), numbers)


def test_lower_bits_come_first():
    assert pack(np.array([1, 2, 3, 0], np.uint8), 2).tolist() == [1 + 2 * 4 + 3 * 16]
    assert pack(np.array([5, 9], np.uint8), 4).tolist() == [5 + 9 * 16]
