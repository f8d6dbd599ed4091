"""A bundle of several models over HTTP: who took part is told, as OpenAPI says."""

from pathlib import Path

import httpx

from millirec.bundle import pack_ensemble
from tests.bundles import untrained
from tests.server.test_openapi import answers, check
from tests.serving import ask, served


def test_answers_tell_their_members(bundle: Path, tmp_path: Path) -> None:
    pack_ensemble([untrained(), untrained(seed=1)], (1.0, 0.5), tmp_path / "bundles" / "both")
    options = ("--bundles", str(tmp_path / "bundles"))
    with (
        served(bundle, tmp_path / "one", *options) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        question = {"items": ["i1", "i2"], "deadline_ms": 60_000}
        assert "members" not in ask(client, "/recommend", question)
        ask(client, "/bundles", {"path": "both"})
        answer = ask(client, "/recommend", question)
        assert answer["members"] == ["sasrec", "sasrec-2"]
        assert "left_out" not in answer
        assert ask(client, "/rank", {"candidates": ["i1"], "items": ["i2"]})["members"] == ["sasrec", "sasrec-2"]
        assert ask(client, "/recommend", {"user": "nobody"})["members"] == []
        spec = client.get("/openapi.json").json()
        hurried = ask(client, "/recommend", {**question, "deadline_ms": 0.001})
        assert hurried["left_out"] == {"sasrec": "late", "sasrec-2": "late"}
        assert hurried["stage"] == "popular"
        for one in (answer, hurried):
            assert check(one, answers(spec, "/recommend", "post", 200), spec) == []
        assert server.stop() == 0
