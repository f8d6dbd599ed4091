"""`inspect`: the figures by hand, and each thing that looks wrong planted and found."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from millirec.cli.data import app
from millirec.data.errors import ConfigError, DataError
from millirec.data.inspect import Report, inspect
from millirec.data.sources import Columns, FeatureTable, MovieLensConfig, SessionConfig, TableConfig, read
from millirec.data.sources.guess import guess

T0 = 1_000_000_000_000
NOW = T0 + 10**10

Row = tuple[str, str, int]


def steps(user: str, items: str, start: int = T0, gap: int = 1000) -> list[Row]:
    return [(user, item, start + gap * i) for i, item in enumerate(items)]


def report(folder: Path, rows: list[Row], **options: object) -> Report:
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "log.csv")
    config = TableConfig(path=str(folder / "log.csv"), time_unit="ms", **options)  # type: ignore[arg-type]
    return inspect(read(config), now=NOW)


def found(report: Report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


CLEAN = [*steps("u1", "abcd"), *steps("u2", "bca", T0 + 10_000), *steps("u3", "cab", T0 + 20_000)]


def test_figures_worked_out_by_hand(tmp_path: Path) -> None:
    rows = [*CLEAN, ("u1", "a", T0 + 3000)]  # u1 meets `a` again, at the time of `d`
    figures = report(tmp_path, rows)
    assert (figures.users, figures.items, figures.events) == (3, 4, 11)
    assert figures.first_time == "2001-09-09T01:46:40Z"
    assert figures.last_time == "2001-09-09T01:47:02Z"
    assert figures.repeats == 1
    assert figures.density == pytest.approx(10 / 12)
    assert figures.tied_events == 2
    assert figures.tied_last_users == 1
    assert figures.events_per_user["min"] == 3
    assert figures.events_per_user["median"] == 3
    assert figures.events_per_user["max"] == 5
    assert figures.events_per_item["mean"] == 2.75
    assert figures.missing == {}


def test_a_clean_log_has_no_findings(tmp_path: Path) -> None:
    assert found(report(tmp_path, CLEAN)) == {}


PLANTS: dict[str, tuple[list[Row], int]] = {
    "duplicate-events": ([("u1", "a", T0)], 1),
    "future-times": ([("u1", "e", NOW + 1), ("u1", "f", NOW + 2), ("u1", "g", NOW)], 2),
    "zero-times": ([("u1", "e", 0)], 1),
    "times-before-1990": ([("u1", "e", 1), ("u1", "f", 631_151_999_999), ("u1", "g", 631_152_000_000)], 2),
    "single-event-users": ([("u9", "a", T0)], 1),
    "user-ids-differ-by-spaces": (steps("u 1", "abc"), 2),
    "user-ids-differ-by-case": (steps("U1", "abc"), 2),
    "item-ids-differ-by-spaces": ([("u1", " a", T0 + 9000), ("u1", "a ", T0 + 9500)], 3),
    "item-ids-differ-by-case": ([("u1", "A", T0 + 9000)], 2),
    "bot-like-users": (steps("u9", "".join(map(chr, range(0x4E00, 0x4E00 + 200))), T0, 100), 1),
    "copied-user (leave-last-out)": (
        [*steps("u8", "efghi", T0 + 30_000), *steps("u9", "efghi", T0 + 50_000)],
        2,
    ),
}


@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_planted_is_found(tmp_path: Path, kind: str) -> None:
    plant, count = PLANTS[kind]
    figures = report(tmp_path, CLEAN + plant)
    assert found(figures).get(kind) == count
    finding = next(finding for finding in figures.findings if finding.kind == kind)
    assert finding.example
    assert finding.explanation


def test_duplicates_leak_into_the_test_part(tmp_path: Path) -> None:
    figures = report(tmp_path, [*CLEAN, *[("u1", "d", T0 + 3000)] * 2])
    assert found(figures)["same-event (leave-last-out)"] == 2


def test_a_slow_user_is_no_bot(tmp_path: Path) -> None:
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 250)))
    assert "bot-like-users" not in found(report(tmp_path, CLEAN + steps("u9", many, T0, 302)))


def test_items_without_features_and_gaps(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,year,title\na,1999,A\nb,,B\nc,,\n")
    table = FeatureTable(path=str(tmp_path / "items.csv"), features={"year": "numeric", "title": "text"})
    figures = report(tmp_path, CLEAN, items=table)
    assert found(figures) == {"items-without-features": 2}
    assert figures.missing == {"items.year": 3, "items.title": 2}
    assert figures.item_features == {"year": "numeric", "title": "text"}


def test_a_given_test_part_is_audited(tmp_path: Path) -> None:
    head = "SessionId\tItemId\tTime\n"
    (tmp_path / "a_train.txt").write_text(head + "1\ta\t5\n1\tb\t6\n2\tb\t7\n2\tc\t8\n3\ta\t9\n3\tb\t10\n")
    (tmp_path / "a_test.txt").write_text(head + "1\tb\t6\n8\tb\t20\n8\tc\t21\n")
    figures = inspect(read(SessionConfig(path=str(tmp_path), validation=0.3)))
    assert figures.protocol == "given (validation=0.3: all events)"
    assert found(figures)["same-event (given)"] == 1
    figures = inspect(read(SessionConfig(path=str(tmp_path / "a_train.txt"))))
    assert figures.protocol == "none"


def test_rejected_rows_are_a_finding(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,5\nu,b,six\nu,c,7\n")
    config = TableConfig(path=str(tmp_path / "log.csv"))
    figures = inspect(read(config, on_error="skip", rejected=tmp_path / "bad"))
    assert found(figures)["rejected-rows"] == figures.rejected == 1


# -- guessing ----------------------------------------------------------------------------------------------------------

GUESSES = {
    "ratings.dat": ("1::2::3::978300760\n", "movielens"),
    "u.data": ("196\t242\t3\t881250949\n", "movielens"),
    "log.csv": ("user_id,item_id,timestamp\n1,2,3\n", "table"),
    "log.tsv": ("userID\tartistID\tweight\n2\t51\t13883\n", "table"),
    "log.jsonl": ('{"reviewerID": "a", "asin": "b"}\n', "table"),
    "odd.csv": ("who,what\n1,2\n", "table"),
    "bare.csv": ("1,2,5,978300760\n3,4,1,978300761\n", "table"),
    "clicks.txt": ("SessionId\tItemId\tTime\n1\t2\t3\n", "table"),
    "test_prefix_target.txt": ("1 2 3\t4\n5\t6\n", "sessions"),
    "train_sessions.txt": ("1 2 3\n4 5\n", "sessions"),
    "timed.txt": ("1:5 2:6\n", "sessions"),
    "Beauty.txt": ("1 2 3 4\n2 5 6\n", "sequences"),
    "pairs.txt": ("1 1\n1 2\n", "sequences"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_formats_are_guessed(tmp_path: Path, name: str) -> None:
    text, kind = GUESSES[name]
    (tmp_path / name).write_text(text)
    config = guess(tmp_path / name)
    assert type(config).__struct_config__.tag == kind
    if name != "odd.csv":
        assert len(read(config).interactions)
        assert type(guess(tmp_path)).__struct_config__.tag in (kind, "sessions")
    else:
        with pytest.raises(DataError, match="which column is the user"):
            read(config)


def test_a_headless_table_tells_values_from_times(tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text(GUESSES["bare.csv"][0])
    config = guess(tmp_path / "bare.csv")
    assert isinstance(config, TableConfig)
    assert config.columns == Columns(user="1", item="2", value="3", time="4")


def test_a_folder_of_several_logs_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match=r"it holds a\.csv, b\.csv"):
        guess(tmp_path)


# -- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_command_prints_the_report(shared_data: Path) -> None:
    where = str(shared_data / "ml-100k")
    figures = json.loads(run("inspect", where, "--json"))
    expected = inspect(read(MovieLensConfig(path=where)))
    assert figures["events"] == expected.events == 100_000
    assert figures["tied_last_users"] == expected.tied_last_users
    text = run("inspect", where)
    for piece in ("movielens", "100,000", "6.3047%", "genres", "nothing looks wrong"):
        assert piece in text


def test_the_command_takes_columns_and_skips_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("who,what,when\nu,a,1000000000\nu,b,never\nu,[red]c,1000000002\n")
    columns = ["--user", "who", "--item", "what", "--time", "when"]
    with pytest.raises(DataError, match="line 3: `when` = never"):
        run("inspect", "log.csv", *columns)
    text = run("inspect", "log.csv", *columns, "--on-error", "skip")
    assert "rejected-rows" in text
    assert json.loads(Path("rejected.jsonl").read_text())["text"] == "u,b,never"
    assert (
        json.loads(run("inspect", "log.csv", "--user", "who", "--item", "what", "--time", "", "--json"))["events"] == 3
    )


def test_the_command_wants_one_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a path or a config"):
        run("inspect")


def test_the_command_simulates_and_looks_at_the_result(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    run("simulate", str(out), "--users", "20", "--items", "50", "--events", "900", "--seed", "4")
    figures = json.loads(run("inspect", str(out), "--json"))
    assert figures["events"] == 900
    assert figures["item_features"]["category"] == "categorical"
    assert not [f for f in figures["findings"] if "leak" in f["kind"] or "duplicate" in f["kind"]]
    with pytest.raises(ConfigError, match="exists already"):
        run("simulate", str(out))
