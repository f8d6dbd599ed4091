"""Specs: `specs/SET/set.toml` says what a data set is, `specs/SET/MODEL.toml` how a model is trained on it."""

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from millirec.config import convert
from millirec.data.sources import SequenceFileConfig, SessionConfig, SourceConfig
from millirec.data.split import Given, SplitConfig, protocol_name

ROOT = Path(__file__).resolve().parents[2]
SPECS = Path(__file__).with_name("specs")
_PATHS = ("path", "test", "inexact", "attributes")


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure from elsewhere: `who` reached `figures` (metric -> value) under `protocol`, as `source` says."""

    who: str
    source: str
    figures: dict[str, float]
    protocol: str = "leave-last-out"


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the log is, with paths below the folder of data sets, and how it is split."""

    data: dict[str, Any]
    split: dict[str, Any]


class Set(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set. `watch`: how long training takes to this NDCG@10 on validation events is told.

    With `repeats` items already seen are asked for and recommended again (sessions). `about` stands above its table.
    """

    title: str
    about: str
    protocols: dict[str, Protocol]
    metrics: tuple[str, ...] = ("ndcg@10", "hr@10")
    watch: float | None = None
    repeats: bool = False
    published: tuple[Published, ...] = ()


def names() -> list[str]:
    """All data sets that have a spec."""
    return sorted(path.parent.name for path in SPECS.glob("*/set.toml"))


def models(name: str) -> list[str]:
    """All models that have a spec for this data set."""
    return sorted(path.stem for path in (SPECS / name).glob("*.toml") if path.stem != "set")


def read_set(name: str) -> Set:
    """The spec of a data set. Raises ConfigError when there is none or it is wrong."""
    spec: Set = convert(_toml(SPECS / name / "set.toml"), Set, f"specs/{name}/set.toml")
    return spec


def read_model(name: str, model: str) -> dict[str, Any]:
    """`model` and `train` sections of a spec."""
    return _toml(SPECS / name / f"{model}.toml")


def source(spec: Set, protocol: str) -> SourceConfig:
    """Where the log of a data set is on this machine; MILLIREC_DATA names the folder of data sets."""
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve()
    data = {
        key: str(folder / value) if key in _PATHS else value for key, value in spec.protocols[protocol].data.items()
    }
    config: SourceConfig = convert(data, SourceConfig, "data")
    return config


def split_config(spec: Set, protocol: str) -> SplitConfig:
    """How it is split."""
    config: SplitConfig = convert(spec.protocols[protocol].split, SplitConfig, "split")
    return config


def split_name(spec: Set, protocol: str) -> str:
    """The split in words, with all that decides it, as results tell it."""
    config = split_config(spec, protocol)
    owned = source(spec, protocol)
    if isinstance(config, Given) and isinstance(owned, SequenceFileConfig | SessionConfig):
        return owned.protocol
    return protocol_name(config)


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SystemExit(f"{path.relative_to(ROOT)} is missing -> write it, or choose among {', '.join(names())}")
    return tomllib.loads(path.read_text(encoding="utf-8"))
