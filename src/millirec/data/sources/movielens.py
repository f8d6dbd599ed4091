"""MovieLens as GroupLens ships it: ml-100k, ml-1m, ml-10m (`::`) and the csv editions, in a folder or a zip."""

import csv
import io
import re
from pathlib import Path

import polars as pl

from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.filters import Filters
from millirec.data.sources import assemble
from millirec.data.sources.checks import Rules
from millirec.data.sources.files import File, find, is_zip, one
from millirec.data.sources.lines import Layout, read_lines
from millirec.data.sources.rejects import Rejects

_RATINGS = ("ratings.dat", "u.data", "ratings.csv")
_MOVIES = ("movies.dat", "u.item", "movies.csv")
_USERS = ("users.dat", "u.user")
_YEAR = re.compile(r"\((\d{4})\)\s*$")
_GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_PERSON = ("gender", "age", "occupation", "zip")


class MovieLensConfig(Filters, frozen=True, kw_only=True, tag="movielens"):
    """`path`: the folder, the zip as downloaded, or the ratings file itself (plain, .gz or .zip).

    Titles, genres, years, and users' gender, age, occupation and zip code are read when their files lie beside the
    ratings.
    `inexact`: a csv `line,kind` that names ratings by their line, from 1; users with a line of the kind
    `time_unknown` (only the order of their ratings is known) are left out, as a split by time needs.
    """

    path: str
    inexact: str | None = None


def read_movielens(config: MovieLensConfig, rejects: Rejects) -> Dataset:
    """Ratings in file order, times in ms. Harper and Konstan, The MovieLens Datasets, TiiS 2015."""
    path = Path(config.path)
    ratings, around = _ratings(path)
    with ratings.plain() as plain:
        layout = _layout(ratings, plain)
        columns = dict(zip(("user", "item", "value", "time"), layout.columns, strict=True))
        events = read_lines(ratings, plain, layout, Rules(columns, "s"), rejects)
        if config.inexact:
            untimed = _untimed_users(one(Path(config.inexact)), plain, layout)
            events = events.filter(~pl.col("user").is_in(untimed))
    movies, users = find(around, _MOVIES), find(around, _USERS)
    return assemble.dataset(
        events,
        name=_name(path),
        items=_movies(movies) if movies else {},
        users=_users(users) if users else {},
    )


def _ratings(path: Path) -> tuple[File, Path]:
    """The ratings file, and the folder or archive in which its sisters lie."""
    if path.is_dir() or (path.exists() and is_zip(path) and not path.name.startswith(("ratings.", "u.data"))):
        around = path
    else:
        return one(path), path.parent
    found = find(around, _RATINGS)
    if found is None:
        raise DataError(f"{path}: no MovieLens ratings here", f"it should hold one of {', '.join(_RATINGS)}")
    return found, around


def _name(path: Path) -> str:
    if path.is_dir():
        return path.resolve().name
    inside = path.name.startswith(("ratings.", "u.data"))
    return (path.resolve().parent.name if inside else path.name.split(".")[0]) or "movielens"


def _layout(file: File, plain: Path) -> Layout:
    with plain.open("rb") as stream:
        first = stream.readline(10_000)
    separator = next((s for s in ("::", "\t", ",") if s.encode() in first), None)
    if separator is None:
        raise DataError(f"{file.label}: line 1 is no rating: {first[:60]!r}", "give a MovieLens ratings file")
    header = not first.split(separator.encode())[0].strip().isdigit()
    names = ("userId", "movieId", "rating", "timestamp") if header else ("user", "movie", "rating", "timestamp")
    return Layout(names, separator, header, quoted=False)


def _untimed_users(file: File, plain: Path, layout: Layout) -> list[str]:
    """Users with a rating whose time is unknown, in the order of their lines."""
    rows = list(csv.DictReader(io.StringIO(_text(file))))
    if not rows or not {"line", "kind"} <= rows[0].keys():
        raise DataError(f"{file.label}: no columns `line` and `kind`", "give a csv that names inexact ratings")
    named = {row["line"] for row in rows if row["kind"] == "time_unknown"}
    separator = layout.separator.encode()
    with plain.open("rb") as stream:
        users = [line.split(separator)[0].decode() for n, line in enumerate(stream, start=1) if str(n) in named]
    if len(users) < len(named):
        raise DataError(f"{file.label}: names lines that the ratings do not have", "give the csv of this very file")
    return list(dict.fromkeys(users))


def _text(file: File) -> str:
    """A small side file; GroupLens' older ones are Latin-1."""
    with file.plain() as plain:
        raw = plain.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _side_rows(file: File, width: int) -> list[list[str]]:
    text = _text(file)
    if file.name.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(text)))[1:]
    else:
        separator = "::" if file.name.endswith(".dat") else "|"
        rows = [line.split(separator) for line in text.splitlines()]
    for number, row in enumerate(rows, start=1):
        if row and len(row) < width:
            raise DataError(
                f"{file.label}: line {number:,}: {len(row)} fields, at least {width} expected", "mend the line"
            )
    return [row for row in rows if row]


def _movies(file: File) -> dict[str, pl.DataFrame]:
    rows = _side_rows(file, 24 if file.name == "u.item" else 3)
    ids = [row[0] for row in rows]
    titles = [row[1] for row in rows]
    if file.name == "u.item":
        genres = [[g for g, flag in zip(_GENRES_100K, row[5:], strict=False) if flag == "1"] for row in rows]
    else:
        genres = [[g for g in row[-1].split("|") if g != "(no genres listed)"] for row in rows]
    years = [float(found[1]) if (found := _YEAR.search(title)) else None for title in titles]
    return {
        "text": pl.DataFrame({"id": ids, "title": titles}),
        "multi": pl.DataFrame({"id": ids, "genres": genres}, schema_overrides={"genres": pl.List(pl.String)}),
        "numeric": pl.DataFrame({"id": ids, "year": years}, schema_overrides={"year": pl.Float32}),
    }


def _users(file: File) -> dict[str, pl.DataFrame]:
    rows = _side_rows(file, 5)
    # u.user: id|age|gender|occupation|zip; users.dat: id::gender::age::occupation::zip
    order = (0, 2, 1, 3, 4) if file.name == "u.user" else (0, 1, 2, 3, 4)
    columns = zip(*[[row[i] for i in order] for row in rows], strict=True)
    return {"categorical": pl.DataFrame(dict(zip(("id", *_PERSON), (list(c) for c in columns), strict=True)))}
