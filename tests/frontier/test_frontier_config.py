"""What a frontier's config refuses, and what it writes for each variant."""

import tomllib
from typing import Any

import optuna
import pytest

from millirec.config import convert, dumps
from millirec.data.errors import ConfigError
from millirec.engine.settings import EngineSettings
from millirec.frontier.config import FrontierConfig, Limits, Measure, Variant, VariantRanker
from millirec.frontier.search import Search
from millirec.frontier.space import drawn
from tests.conftest import ROOT

STEPS = [{"kind": "quantize", "table_bits": 8}]


def config(**more: Any) -> FrontierConfig:
    return convert({"teacher": "t", **more}, FrontierConfig, "f.toml")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": "../x"}, "$.name"),
        ({"gate": 0}, "$.gate"),
        ({"limits": {"max_p99_ms": 0}}, "$.limits.max_p99_ms"),
        ({"limits": {"max_memory_mb": -1}}, "$.limits.max_memory_mb"),
        ({"limits": {"max_bundle_mb": float("nan")}}, "$.limits.max_bundle_mb"),
        ({"limits": {"min_quality": 1.1}}, "$.limits.min_quality"),
        ({"limits": {"min_quality_share": 99}}, "$.limits.min_quality_share"),
        ({"limits": {"max_p99": 1}}, "max_p99"),
        ({"measure": {"rounds": 0}}, "$.measure.rounds"),
        ({"measure": {"seconds": 0}}, "$.measure.seconds"),
        ({"measure": {"rate": 0}}, "$.measure.rate"),
        ({"measure": {"core": -1}}, "$.measure.core"),
        ({"measure": {"core": "first"}}, "$.measure.core"),
        ({"measure": {"ask": "nobody"}}, "$.measure.ask"),
        ({"measure": {"users": -1}}, "$.measure.users"),
        ({"variants": [{"name": "a b"}]}, "$.variants.name"),
        ({"variants": [{"name": "teacher"}]}, "$.variants[0].name"),
        ({"variants": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}, "$.variants[2].name = 'a' stands twice"),
        ({"variants": [{"name": "a", "steps": [{"kind": "magic"}]}]}, "$.variants[0].steps[0]"),
        ({"variants": [{"name": "a", "engine": {"threads": 0}}]}, "$.threads"),
        ({"ranker": False}, "$.ranker"),
        ({"variants": [{"name": "a", "ranker": "r"}]}, "$.variants[0].ranker"),
        ({"variants": [{"name": "a", "ranker": {"weights": "int4"}}]}, "$.variants[0].ranker.weights"),
        ({"variants": [{"name": "a", "ranker": {"steps": [{"kind": "tiered"}]}}]}, "$.variants[0].ranker.steps[0]"),
        ({"variants": [{"name": "a", "ranker": {"step": []}}]}, "step"),
        ({"variants": [{"name": "a", "pack": {"tolerance": 0}}]}, "$.pack.tolerance"),
    ],
)
def test_refusals_name_the_field(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**more)
    assert words in str(error.value)


def test_the_config_of_one_variant_makes_it_again() -> None:
    whole = config(
        variants=[
            {"name": "small", "steps": STEPS, "engine": {"carry_mb": 0}},
            {"name": "plain", "checkpoint": "elsewhere"},
            {"name": "alone", "ranker": False},
            {"name": "ranked", "ranker": {"checkpoint": "r", "steps": STEPS, "weights": "int8"}},
        ],
        ranker="own",
        limits={"max_p99_ms": 2.5},
        gate=0.99,
    )
    text = dumps(whole.only("small"))
    again = convert(tomllib.loads(text), FrontierConfig, "again")
    assert again.variants == whole.variants[:1]
    assert (again.limits, again.measure, again.gate) == (whole.limits, whole.measure, whole.gate)
    assert "pack" not in text  # what is as ever need not be read
    assert "variants.ranker" not in text
    assert again.ranker == "own"
    for name, variant in zip(("alone", "ranked"), whole.variants[2:], strict=True):
        assert convert(tomllib.loads(dumps(whole.only(name))), FrontierConfig, "").variants == (variant,)
    assert convert(tomllib.loads(dumps(whole.only("teacher"))), FrontierConfig, "").variants == ()


def test_examples_are_configs() -> None:
    page = (ROOT / "docs" / "frontier.md").read_text()
    texts = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    texts += [(ROOT / "examples" / f"{name}.toml").read_text() for name in ("frontier", "search", "ranker-frontier")]
    assert len(texts) == 7
    for text in texts:
        config = convert(tomllib.loads(text), FrontierConfig, "docs")
        assert config.variants or config.search
        if config.search:
            plain = drawn(config.search.variant, optuna.create_study().ask())
            assert convert(plain | {"name": "drawn"}, Variant, "drawn").steps


def test_every_field_is_told_in_the_docs() -> None:
    page = (ROOT / "docs" / "frontier.md").read_text()
    for kind in (FrontierConfig, Limits, Measure, EngineSettings, Search, VariantRanker):
        missing = [name for name in kind.__struct_fields__ if name not in page]
        assert missing == []
