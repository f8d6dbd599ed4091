"""Users whose times are not known stand aside in a split by time."""

from pathlib import Path

import pytest

from millirec.data.errors import DataError
from millirec.data.sources import MovieLensConfig, read

RATINGS = "7::10::5::100\n7::11::4::200\n8::10::3::300\n9::12::5::400\n8::12::2::500\n"


def log(folder: Path, inexact: str) -> MovieLensConfig:
    (folder / "ratings.dat").write_text(RATINGS)
    (folder / "inexact.csv").write_text(inexact)
    return MovieLensConfig(path=str(folder), inexact=str(folder / "inexact.csv"))


def test_users_of_unknown_time_are_left_out_and_others_stay(tmp_path: Path) -> None:
    config = log(tmp_path, "line,kind\n1,time_within_523_s\n2,rating_unknown\n5,time_unknown\n")
    dataset = read(config)
    assert dataset.users.vocabulary.ids == ("7", "9")
    assert dataset.items.vocabulary.ids == ("10", "11", "12")
    assert len(read(MovieLensConfig(path=str(tmp_path))).interactions) == 5


@pytest.mark.parametrize(("text", "message"), [("row\n3\n", "`line`"), ("line,kind\n9,time_unknown\n", "names lines")])
def test_a_csv_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(log(tmp_path, text))


def test_movielens_1m(shared_data: Path) -> None:
    folder = shared_data / "ml-1m"
    dataset = read(MovieLensConfig(path=str(folder), inexact=str(folder / "inexact_rows.csv.gz")))
    assert len(dataset.users) == 6040 - 511
