"""What compressed search promises beyond the contract: settings, refusals, size."""

import msgspec
import numpy as np
import pytest

from millirec import index
from millirec.data.errors import ArtifactError, ConfigError
from millirec.index import PQConfig
from millirec.index.pq import _recipe


def vectors(n: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n + 1, dim)).astype(np.float32)


@pytest.mark.parametrize(("field", "value"), [("codes", 0), ("probes", 0), ("refine", 0), ("lists", -1), ("codes", -3)])
def test_settings_that_cannot_work(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.index\.{field} = {value}"):
        PQConfig(**{field: value})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="nprobe"):
        msgspec.json.decode(b'{"kind": "pq", "nprobe": 3}', type=index.IndexConfig)


def test_too_few_items() -> None:
    with pytest.raises(ConfigError, match="over 15 items"):
        index.build(vectors(15), PQConfig())
    spoilt = vectors(20)
    spoilt[3:9] = np.nan
    with pytest.raises(ConfigError, match="over 14 items"):
        index.build(spoilt, PQConfig())


def test_codes_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="does not divide the width 8"):
        index.build(vectors(50), PQConfig(codes=3))


def test_more_lists_than_items() -> None:
    with pytest.raises(ConfigError, match="lists = 60 with 50 items"):
        index.build(vectors(50), PQConfig(lists=60))


def test_the_inverted_file_comes_with_size() -> None:
    assert _recipe(PQConfig(), 199_999, 64) == "PQ64x4fs,Refine(SQfp16)"
    assert _recipe(PQConfig(), 1_000_000, 64) == "IVF1000,PQ64x4fs,Refine(SQfp16)"
    assert _recipe(PQConfig(codes=16, lists=0), 1_000_000, 64) == "PQ16x4fs,Refine(SQfp16)"


def test_another_faiss_index_is_refused() -> None:
    import faiss

    arrays = index.build(vectors(50), PQConfig()).arrays()
    other = faiss.IndexFlatIP(8)
    other.add(vectors(49))
    with pytest.raises(ArtifactError, match="not an index of 50 items"):
        index.load(arrays | {"faiss": faiss.serialize_index(other)}, PQConfig())


def test_it_is_smaller_than_the_vectors() -> None:
    size = sum(array.nbytes for array in index.build(vectors(5000, 64), PQConfig()).arrays().values())
    assert size < 0.72 * 5000 * 64 * 4
