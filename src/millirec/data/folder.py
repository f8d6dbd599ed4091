"""Folders that appear at once: a crash leaves the old one or the new one, never half of one."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into; it takes the place of `folder` when the block ends well."""
    folder = folder.resolve()
    new = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    new.mkdir(parents=True)
    try:
        yield new
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`."""
    if not folder.exists():
        new.replace(folder)
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> None:
    """Mend what a crash between the two renames of `replace_folder` left: bring the old folder back."""
    folder = folder.resolve()
    if not folder.name:
        return
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.replace(folder)
