"""A run as a person would write it: people walk a circle of items. Shared by the tests of commands."""

from pathlib import Path

from tests.logs import cycle

_HEAD = """
name = "circle"
out = "{folder}/runs"
[data]
kind = "table"
path = "{folder}/events.csv"
columns = {{ user = "who", item = "what", time = "when" }}
[machine]
threads = 1
"""


def write_run(folder: Path, sections: str) -> None:
    """`events.csv` and `run.toml` in `folder`; `sections`: [model] and [train]."""
    log = cycle().interactions
    rows = [f"u{u},i{i},{t}" for u, i, t in zip(log.users, log.items, log.times, strict=True)]
    (folder / "events.csv").write_text("\n".join(["who,what,when", *rows]) + "\n")
    (folder / "run.toml").write_text(_HEAD.format(folder=folder) + sections)
