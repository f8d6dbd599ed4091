"""A user a line (S3-Rec, LightGCN: `user item item ...`) or a pair a line (SASRec, BERT4Rec: `user item`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.filters import Filters
from millirec.data.sources import assemble, given
from millirec.data.sources.checks import MAX_ID, Rules
from millirec.data.sources.files import File, one
from millirec.data.sources.lines import Layout, numbered, read_lines
from millirec.data.sources.rejects import Rejects


class SequenceFileConfig(Filters, frozen=True, kw_only=True, tag="sequences"):
    """Items in time order, no times. `layout` auto: pairs when the first lines have two fields each.

    `attributes`: S3-Rec's `*_item2attributes.json`; found by itself beside the file. `test`: a second file of the
    same layout with what is to be predicted; then the last event of the last `validation` share of users validates.
    """

    path: str
    layout: Literal["auto", "lines", "pairs"] = "auto"
    attributes: str | None = None
    test: str | None = None
    validation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        given.check_share(self.validation)

    @property
    def protocol(self) -> str:
        """The split in words, where there is a test part."""
        return given.protocol(self.validation, "last")


def read_sequences(config: SequenceFileConfig, rejects: Rejects) -> Dataset:
    """Events in file order."""
    path = Path(config.path)
    events = _events(path, config.layout, rejects)
    protocol = "none"
    if config.test:
        events = given.join(events, _events(Path(config.test), config.layout, rejects), config.validation, "last")
        protocol = config.protocol
    beside = Path(config.attributes) if config.attributes else _beside(path)
    items = {"multi": _attributes(beside)} if beside else {}
    return assemble.dataset(events, name=path.name.split(".")[0], items=items, protocol=protocol)


def _beside(path: Path) -> Path | None:
    found = path.with_name(path.name.split(".")[0] + "_item2attributes.json")
    return found if found.is_file() else None


def _events(path: Path, layout: str, rejects: Rejects) -> pl.DataFrame:
    file = one(path)
    with file.plain() as plain:
        if layout == "auto":
            layout = "pairs" if _paired(plain) else "lines"
        if layout == "pairs":
            return read_lines(file, plain, _pairs(plain), Rules({"user": "user", "item": "item"}), rejects)
        users, items = [], []
        for tokens in token_lines(file, plain, rejects, least=2):
            users += [tokens[0]] * (len(tokens) - 1)
            items += tokens[1:]
    return pl.DataFrame({"user": users, "item": items}, schema={"user": pl.String(), "item": pl.String()})


def _paired(plain: Path) -> bool:
    with plain.open("rb") as stream:
        counts = {len(stream.readline(100_000).split()) for _ in range(1000)}
    return counts <= {0, 2} and 2 in counts


def _pairs(plain: Path) -> Layout:
    with plain.open("rb") as stream:
        separator = "\t" if b"\t" in stream.readline(10_000) else " "
    return Layout(("user", "item"), separator, header=False, quoted=False)


def token_lines(file: File, plain: Path, rejects: Rejects, *, least: int) -> Iterator[list[str]]:
    """The words of each line. Lines with fewer than `least` words, or damaged ones, go to `rejects`."""
    with plain.open("rb") as stream:
        for record in numbered(stream):
            if record.text.isspace():
                continue
            reason, tokens = record.reason, []
            try:
                tokens = record.text.decode("utf-8-sig" if record.line == 1 else "utf-8").split()
            except UnicodeDecodeError as error:
                reason = reason or f"not valid UTF-8 at byte {error.start + 1}"
            if not reason and b"\0" in record.text:
                reason = "a NUL byte"
            if not reason and len(tokens) < least:
                reason = f"{len(tokens)} field{'s' * (len(tokens) != 1)}, at least {least} expected"
            if not reason and len(max(tokens, key=len)) > MAX_ID:
                reason = f"an id longer than {MAX_ID} characters"
            if reason:
                rejects.add(file.label, record.line, reason, record.text)
            else:
                yield tokens


def _attributes(path: Path) -> pl.DataFrame:
    """`{"item": [attribute, ...]}`, each attribute once."""
    file = one(path)
    with file.plain() as plain:
        try:
            table = msgspec.json.decode(plain.read_bytes(), type=dict[str, list[int | str]])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(
                f"{file.label}: not a JSON object of lists ({error})", "give an *_item2attributes.json file"
            ) from error
    lists = [[str(value) for value in dict.fromkeys(values)] for values in table.values()]
    columns = {"id": list(table), "attributes": lists}
    return pl.DataFrame(columns, schema={"id": pl.String(), "attributes": pl.List(pl.String())})
