"""A graph that was made elsewhere, from the options of `millirec pack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from millirec.data.errors import ConfigError, DataError

if TYPE_CHECKING:
    from millirec.bundle import Bundle, PackConfig


class ForeignOptions(NamedTuple):
    """The options of `pack` that are for ONNX files, None where one was not given."""

    ids: Path | None
    vectors: Path | None
    max_length: int | None
    quantize: str | None

    def given(self) -> list[str]:
        """Their names, as they were typed."""
        return [f"--{name.replace('_', '-')}" for name, value in self._asdict().items() if value is not None]


def pack_foreign(model: Path, folder: Path, config: "PackConfig", options: ForeignOptions) -> "Bundle":
    """Raises ConfigError when an option is missing or wrong, DataError when a file cannot be read."""
    from millirec.bundle import ForeignConfig, ForeignItems, pack_graph
    from millirec.config import convert

    given = options.given()
    for option in ("--ids", "--vectors", "--max-length"):
        if option not in given:
            raise ConfigError(f"{option} is missing", "an ONNX file does not say it; see docs/bring-your-own.md")
    settings = {"max_length": options.max_length, "quantize": options.quantize}
    foreign: ForeignConfig = convert(settings, ForeignConfig, "--quantize")
    items = ForeignItems(*_items(Path(str(options.ids)), Path(str(options.vectors))))
    return pack_graph(model, items, folder, foreign, config)


def _items(ids: Path, vectors: Path) -> tuple[Any, Any]:
    """Catalogue and vectors from their files. Raises DataError when one cannot be read."""
    import numpy as np

    from millirec.data.catalog import Catalog, Vocabulary

    try:
        names = ids.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{ids}: cannot be read ({error})", "give item ids as text, one a line") from error
    try:
        array = np.load(vectors, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{vectors}: cannot be read ({error})", "write it with numpy.save, as floats") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise DataError(f"{vectors}: holds no array of floats", "write it with numpy.save, as floats")
    return Catalog(Vocabulary(names)), array
