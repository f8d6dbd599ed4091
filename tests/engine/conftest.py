"""Tiny bundles, packed once for the tests of this room."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from millirec.bundle import Bundle, PackConfig, pack
from millirec.data.catalog import Catalog, Vocabulary
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.models.checkpoint import Checkpoint
from tests.bundles import untrained


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Sixty items i1..i60; item n has genre GENRES[n % 3] and popularity 60 - n."""
    return untrained()


@pytest.fixture(scope="session")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pack(checkpoint, tmp_path_factory.mktemp("a") / "bundle", PackConfig(name="a"))


@pytest.fixture(scope="session")
def newer(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model over another vocabulary: items i60..i3 and then new1, new2, without features."""
    other = untrained(seed=1)
    ids = [f"i{n}" for n in range(60, 2, -1)] + ["new1", "new2"]
    changed = replace(other, catalog=Catalog(Vocabulary(ids)))
    return pack(changed, tmp_path_factory.mktemp("b") / "bundle", PackConfig(name="b"))


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    engine = Engine(bundle, StateStore.temporary())
    yield engine
    engine.close()
