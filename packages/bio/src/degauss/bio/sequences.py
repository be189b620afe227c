r"""Sequence files: FASTA, GenBank, tables and plain text, any of them gzipped.

What a file is, is told by its name (``.fasta``, ``.gb``, ``.csv``, ...), else by how it begins: ``>`` is FASTA,
``LOCUS`` GenBank, and anything else one sequence a line. Letters come out in upper case. Every complaint says the file,
the record and the place.

A FASTA header is ``>name description key=value key=value``: the words with "=" at its end are the record's labels, and
what is written comes back as it was.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from degauss.bio.alphabets import Alphabet
from degauss.core.errors import InputError
from degauss.core.files import atomic_path

FASTA = (".fasta", ".fa", ".fna", ".ffn", ".faa", ".frn", ".fas")
GENBANK = (".gb", ".gbk", ".genbank", ".gbff")
TABLES = {".csv": ",", ".tsv": "\t"}
_SEQUENCE, _NAME = ("sequence", "seq"), ("name", "id")
_BESIDE_LETTERS = "-*."  # gaps and stops


class Record(NamedTuple):
    """One sequence of a file; ``labels``: what a table's other columns or the end of a FASTA header say."""

    name: str
    sequence: str
    description: str = ""
    labels: Mapping[str, str] = MappingProxyType({})


def read_sequences(path: str | os.PathLike[str]) -> list[Record]:
    """All records of a sequence file, at least one.

    A table (.csv, .tsv) has a header with a column ``sequence`` or ``seq``; ``name`` or ``id`` names the record, else
    its number does, as in plain text. Raises `InputError` for a file that is missing, damaged, empty or of another
    kind, and for a record that is empty or holds what cannot be a letter.
    """
    path = Path(path)
    text = _text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty; expected sequences.")
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    beginning = text.lstrip()
    if kind in TABLES:
        records = _table(path, text, TABLES[kind])
    elif kind in GENBANK or beginning.startswith("LOCUS "):
        records = _genbank(path, text)
    elif kind in FASTA or beginning.startswith(">"):
        records = _fasta(path, beginning)
    else:
        lines = (line.strip() for line in text.splitlines())
        records = [Record(str(number), line) for number, line in enumerate(lines, 1) if line]
    return [record._replace(sequence=_checked(path, record)) for record in records]


def tokens_of(path: str | os.PathLike[str], records: Sequence[Record], alphabet: Alphabet) -> Tensor:
    """The tokens ``[records, length]`` of records that were read from ``path``, which errors name."""
    return _named_file(path, alphabet.encode, records)


def templates_of(path: str | os.PathLike[str], records: Sequence[Record], alphabet: Alphabet) -> Tensor:
    """The templates ``[records, length]`` of records that were read from ``path``: free places are `FREE`."""
    return _named_file(path, alphabet.template, records)


def write_fasta(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write records, a line for each sequence; gzipped where the name ends in ``.gz``.

    ValueError for a name or label that a header cannot hold (empty, or with a blank inside).
    """
    path = Path(path)
    text = "".join(f">{_header(record)}\n{record.sequence}\n" for record in records).encode()
    with atomic_path(path) as part:
        # Without the time in it, the same records give the same file.
        part.write_bytes(gzip.compress(text, mtime=0) if path.suffix.lower() == ".gz" else text)


def _named_file(
    path: str | os.PathLike[str], encode: Callable[[Sequence[str], Sequence[str]], Tensor], records: Sequence[Record]
) -> Tensor:
    try:
        return encode([record.sequence for record in records], [record.name for record in records])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    """What a file says, unpacked."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory; expected a file of sequences.")
    try:
        raw = path.read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        return raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; expected a file of sequences.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text (byte {error.start + 1}); expected a file of sequences.") from None


def _checked(path: Path, record: Record) -> str:
    if not record.sequence:
        raise InputError(f"{path}: record {record.name!r} is empty; expected a sequence.")
    for place, letter in enumerate(record.sequence, 1):
        if not (letter.isascii() and letter.isalpha()) and letter not in _BESIDE_LETTERS:
            raise InputError(
                f"{path}: record {record.name!r} has {letter!r} at position {place}, which is no letter of a sequence."
            )
    return record.sequence.upper()


def _fasta(path: Path, text: str) -> list[Record]:
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    if not text.startswith(">"):
        line = text.splitlines()[0]
        raise InputError(f"{path}: is no FASTA; it begins {line[:40]!r}, expected a header that begins with '>'.")
    found: list[Record] = []
    for number, (header, sequence) in enumerate(SimpleFastaParser(io.StringIO(text)), 1):
        name, _, rest = header.strip().partition(" ")
        description, labels = _labels(rest)
        found.append(Record(name or str(number), sequence, description, labels))
    return found


def _labels(rest: str) -> tuple[str, dict[str, str]]:
    """The description of a header, and the labels that end it."""
    words = rest.split()
    labels: dict[str, str] = {}
    while words:
        key, equals, value = words[-1].partition("=")
        if not (key and equals and value) or key in labels:
            break
        labels[key] = value
        words.pop()
    return " ".join(words), dict(reversed(labels.items()))


def _header(record: Record) -> str:
    words = [record.name, *(f"{key}={value}" for key, value in record.labels.items())]
    for word in words:
        if len(word.split()) != 1 or word.endswith("="):
            raise ValueError(f"a FASTA header cannot hold {word!r}: names and labels have no blanks and are not empty")
    return " ".join([words[0], *record.description.split(), *words[1:]])


def _genbank(path: Path, text: str) -> list[Record]:
    from Bio import SeqIO
    from Bio.Seq import UndefinedSequenceError

    found: list[Record] = []
    try:
        for record in SeqIO.parse(io.StringIO(text), "genbank"):
            found.append(Record(str(record.id), str(record.seq), record.description))
    except UndefinedSequenceError:
        raise InputError(f"{path}: GenBank record {len(found) + 1} has no sequence.") from None
    except ValueError as error:
        raise InputError(f"{path}: GenBank record {len(found) + 1} cannot be read ({error}).") from None
    if not found:
        raise InputError(f"{path}: holds no GenBank record; expected one that begins with LOCUS.")
    return found


def _table(path: Path, text: str, delimiter: str) -> list[Record]:
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip() for name in next(rows)]
    sequence, name = (_column(header, wanted) for wanted in (_SEQUENCE, _NAME))
    if sequence is None:
        raise InputError(f"{path}: has no column 'sequence' or 'seq'; its columns are {', '.join(header)}.")
    found: list[Record] = []
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{path}: line {rows.line_num} has {len(row)} fields; expected {len(header)}.")
        # A name has no blanks, so that a FASTA header can hold it.
        called = "_".join(row[name].split()) if name is not None else ""
        labels = {key: row[k].strip() for k, key in enumerate(header) if k not in (sequence, name)}
        found.append(Record(called or str(len(found) + 1), row[sequence].strip(), "", labels))
    if not found:
        raise InputError(f"{path}: has a header, but no rows; expected sequences.")
    return found


def _column(header: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((k for k, name in enumerate(header) if name.lower() in wanted), None)
