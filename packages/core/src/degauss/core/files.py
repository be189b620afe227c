"""Files that are whole or absent, their JSON and their sums.

`atomic_path` gives a place beside the target to write to. What was written is flushed to the disk and then renamed,
so a reader (or a run started after a SIGKILL) finds the old version or the new one. A file is replaced by one rename.
Replacing a directory takes two, and between them the old version lies in a hidden sibling; `settled` finds whichever
version is complete. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from degauss.core.errors import InputError

_PARTIAL, _PREVIOUS = ".partial-", ".previous-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a path beside ``path`` at which to write one file or one directory; put it in place on success.

    The yielded name ends in the target's own name, so writers that go by the suffix work. Missing parents are
    made. If the body raises, or writes nothing, what it left is removed and the old version stays.
    Raises `InputError` where a file would replace a directory or a directory a file.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing at the file that is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    _put_back(target)
    partial = target.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{target.name}")
    try:
        yield partial
        if target.exists() and partial.is_dir() != target.is_dir():
            found, wanted = ("directory", "file") if target.is_dir() else ("file", "directory")
            raise InputError(f"{path} is a {found}, but a {wanted} is to be written: name another path.")
        _flush(partial)
        _replace(partial, target)
        _flush_directory(target.parent)
    finally:
        remove(partial)


def settled(path: str | os.PathLike[str]) -> Path:
    """The complete version of ``path``: itself, or the old directory that a killed replacement left aside."""
    path = Path(path)
    previous = _previous(path)
    return previous if not path.exists() and previous.exists() else path


def remove(path: Path) -> None:
    """Remove a file or a whole directory, if there is one; a kill midway leaves no half of it."""
    if path.is_dir() and not path.is_symlink():
        doomed = path
        if not path.name.startswith((_PARTIAL, _PREVIOUS)):
            doomed = path.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{path.name}")
            path.rename(doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def remove_partial(directory: Path) -> None:
    """Remove what killed writers left in a directory of which the caller is the only writer."""
    for left in directory.glob(f"{_PARTIAL}*"):
        remove(left)


def _previous(target: Path) -> Path:
    return target.with_name(f"{_PREVIOUS}{target.name}")


def _put_back(target: Path) -> None:
    if not target.exists() and _previous(target).exists():
        _previous(target).rename(target)


def _replace(partial: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(partial, target)
        return
    remove(_previous(target))  # the target is complete, so this is what an earlier kill left behind
    target.rename(_previous(target))
    try:
        partial.rename(target)
    finally:
        _put_back(target)
    remove(_previous(target))


def _flush(written: Path) -> None:
    if not written.is_dir():
        with written.open("rb") as file:
            os.fsync(file.fileno())
        return
    for inside in written.iterdir():
        _flush(inside)
    _flush_directory(written)


def _flush_directory(directory: Path) -> None:
    if os.name != "posix":  # elsewhere a directory cannot be opened
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `InputError` if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:  # ValueError: not UTF-8, or not JSON
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, but an object was expected.")
    return cast("dict[str, Any]", value)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file, or of a directory's sorted list of files and their sums.

    The latter is what ``sha256sum FILES... | sha256sum`` prints, run inside the directory.
    """
    path = settled(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{fingerprint(path / name)}  {name}\n" for name in names)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
