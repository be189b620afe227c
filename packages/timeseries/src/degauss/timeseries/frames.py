"""Tables as files: CSV (or TSV, perhaps gzipped) and parquet, recognised by content; written whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from degauss.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_frame(path: Path) -> tuple[pd.DataFrame, str]:
    """The raw frame (text columns from a text file) and the decimal mark of its numbers."""
    import pandas as pd

    try:
        with path.open("rb") as file:
            head = file.read(65_536)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; expected a CSV, TSV or parquet file.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if head.startswith(b"PAR1"):
        return _read_parquet(path), "."
    compression: Literal["gzip"] | None = None
    if head.startswith(b"\x1f\x8b"):
        import gzip
        import zlib

        compression = "gzip"
        try:
            with gzip.open(path, "rb") as file:
                head = file.read(65_536)
        except (OSError, EOFError, zlib.error):
            raise InputError(f"{path}: is a damaged gzip file.") from None
    if not _header(head).strip():
        raise InputError(f"{path}: is empty; expected a table with a header row.")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is a zip or spreadsheet file; expected CSV, TSV or parquet, so export it as CSV.")
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in set(head)):
        raise InputError(f"{path}: is not a text table or a parquet file; expected CSV, TSV or parquet.")
    separator = _separator(head)
    _check_header(path, head, separator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            frame = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                compression=compression,
                index_col=False,
                skipinitialspace=True,
            )
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: has rows with more cells than the header; expected rows of equal length.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, EOFError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise InputError(f"{path}: is not a table ({reason}); expected rows of equal length.") from None
    return frame, "," if separator == ";" else "."


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as arrow

    try:
        frame = pd.read_parquet(path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: is not a whole parquet file ({reason}).") from None
    if not isinstance(frame.index, pd.RangeIndex):  # the index was saved as a column, often the time stamps
        frame = frame.reset_index()
    frame.columns = [str(column) for column in frame.columns]
    if frame.shape[1] < 2:
        raise InputError(f"{path}: has only {frame.shape[1]} column; expected a time column and values.")
    return frame


def _separator(head: bytes) -> str:
    line = _header(head)
    counts = {mark: line.count(mark) for mark in "\t;,"}
    return max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else ","


def _header(head: bytes) -> str:
    """The first line that is not blank."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace").replace("\r", "\n")
    return next((line for line in text.split("\n") if line.strip()), "")


def _check_header(path: Path, head: bytes, separator: str) -> None:
    import csv

    names = [name.strip() for name in next(csv.reader([_header(head)], delimiter=separator))]
    if len(names) < 2:
        raise InputError(
            f"{path}: has only one column ({names[0]!r}); expected a time column and values, separated by "
            "commas, semicolons or tabs."
        )
    named = [name for name in names if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: has two columns called {twice!r}; expected different names.")


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    from degauss.core.files import atomic_path

    suffix = path.suffix.casefold()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"{path}: ends in {suffix or 'no suffix'!r}; expected .csv, .tsv or .parquet.")
    with atomic_path(path) as partial:
        if suffix == ".parquet":
            frame.to_parquet(partial, index=False)
        else:
            frame.to_csv(partial, index=False, sep="\t" if suffix == ".tsv" else ",", lineterminator="\n")


def nameless(column: str) -> bool:
    return column.startswith("Unnamed: ") or not column.strip()


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 12 else shown
