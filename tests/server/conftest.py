"""One tiny bundle and one running server for the tests of this room."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bundles import tiny_bundle
from tests.serving import Served, served


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(bundle, tmp_path_factory.mktemp("server"), "--yardstick") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors.read_text()


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as session:
        yield session
