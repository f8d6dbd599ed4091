"""One real visit; figures are not judged, only that they are there and fit together."""

from pathlib import Path

import msgspec
import pytest

from millirec.bundle import open_bundle
from millirec.cli.engine import engine_settings
from millirec.data.errors import ConfigError
from millirec.engine.settings import EngineSettings
from millirec.frontier.config import Measure
from millirec.frontier.visit import ANSWER, Visit, engine_options, visit

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "v1" / "bundle"


def test_a_visit_with_events_at_a_rate() -> None:
    measure = Measure(seconds=1.0, warm_up=0.2, rate=60, ask="mixed", known_users=3, history=3, connections=4)
    found = visit(open_bundle(GOLDEN), EngineSettings(carry_mb=0), measure, 1)
    assert found.errors == {}
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
    assert found.start_seconds > 0.1
    assert found.requests_per_second > 10
    assert 20 < found.memory_mb < 1000
    # What it used of its core and what a thousand requests cost say the same.
    assert found.cpu_seconds * found.requests_per_second / 1000 == pytest.approx(found.cpu, rel=0.5, abs=0.1)
    assert {"state", "encode", ANSWER} <= set(found.stages)
    p50, p90, p99 = found.stages[ANSWER]
    assert found.stages["encode"][0] < p50 <= p90 <= p99
    assert msgspec.json.decode(msgspec.json.encode(found), type=Visit) == found


def test_settings_of_the_engine_go_through_a_file(tmp_path: Path) -> None:
    assert engine_options(EngineSettings(), tmp_path) == ()
    settings = EngineSettings(carry_mb=0, max_padding=0.5, threads=2)
    option, file = engine_options(settings, tmp_path)
    assert option == "--engine"
    assert engine_settings(Path(file)) == settings
    assert engine_settings(None) == EngineSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = 0", "$.threads = 0"),
        ("treads = 1", "treads"),
        ("threads =", "f.toml"),
        ('threads = "x"', "$.threads"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        engine_settings(file)
    assert words in str(error.value)
    assert "--engine" in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        engine_settings(tmp_path / "absent.toml")
