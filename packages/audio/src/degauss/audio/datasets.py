"""Public recordings for training, tests and claims, found under `data_root()`; nothing is downloaded here.

Archives are unpacked once, into a folder of the user's cache that is named by the archive's sum.
"""

from __future__ import annotations

import secrets
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.files import fingerprint
from degauss.core.places import cache_root, data_root


def _present(name: str, what: str) -> Path:
    path = data_root() / "audio" / name
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected {what} there, so set DEGAUSS_DATA.")
    return path


def unpacked(archive: Path) -> Path:
    """The folder that holds what a tar archive holds, unpacked there if it was not yet; whole or absent.

    Raises `InputError` if the archive cannot be unpacked: damaged, or with a member that leads outside.
    """
    folder = cache_root() / "audio" / f"{archive.name.partition('.')[0]}-{fingerprint(archive)[:12]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".partial-{secrets.token_hex(4)}-{folder.name}")
    try:
        partial.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        _settle(partial, folder)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{archive}: cannot be unpacked to {folder} ({error}).") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _settle(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same files
            raise


# --- spoken digits ------------------------------------------------------------------------------------------


class Digit(NamedTuple):
    """One spoken digit: the file (8 kHz), 0 to 9, who speaks, and the number of the recording (0 to 49)."""

    path: Path
    digit: int
    speaker: str
    take: int

    @property
    def held_out(self) -> bool:
        """Whether it is of the official test set: takes 0 to 4."""
        return self.take < 5


def digits() -> list[Digit]:
    """The Free Spoken Digit Dataset: 10 digits, 6 speakers, 50 takes; CC BY-SA 4.0. By digit, speaker, take.

    `InputError` if `audio/free-spoken-digit-dataset.tar.xz` is not under `data_root()`.
    """
    archive = _present("free-spoken-digit-dataset.tar.xz", "the Free Spoken Digit Dataset")
    found = [_digit(path) for path in unpacked(archive).rglob("*.wav")]
    if not found:
        raise InputError(f"{archive}: holds no wav file; expected DIGIT_SPEAKER_TAKE.wav.")
    return sorted(found, key=lambda one: one[1:])


def _digit(path: Path) -> Digit:
    try:
        digit, speaker, take = path.stem.split("_")
        return Digit(path, int(digit), speaker, int(take))
    except ValueError:
        raise InputError(f"{path}: is not named as a digit; expected DIGIT_SPEAKER_TAKE.wav.") from None


# --- voicebank ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oto:
    """Where a syllable lies in its recording: one entry of UTAU's `oto.ini`, in seconds.

    ``offset``: where the syllable begins. From there: ``consonant``, the length that is never stretched;
    ``preutterance``, where the beat falls (the vowel begins); ``overlap``, how far the note before reaches in.
    ``cutoff``: where the syllable ends; below 0, minus its length from ``offset``, else the length cut from the end
    of the file.
    """

    offset: float
    consonant: float
    cutoff: float
    preutterance: float
    overlap: float

    def end(self, duration: float) -> float:
        """Where the syllable ends in a recording of ``duration`` seconds."""
        return self.offset - self.cutoff if self.cutoff < 0 else duration - self.cutoff


class FrequencyTable(NamedTuple):
    """What UTAU measured, `*_wav.frq`, at every ``hop`` samples of the recording.

    ``mean``: its f0 in Hz. ``f0 [frames]``: Hz, 0 where none was found. ``amplitude [frames]``: mean magnitude in
    levels of 16 bits. Outside the vowel f0 is noise, often an octave off.
    """

    hop: int
    mean: float
    f0: Tensor
    amplitude: Tensor


class Syllable(NamedTuple):
    """One sung syllable: the file (44.1 kHz, most in stereo), its romaji, timing and frequencies."""

    path: Path
    romaji: str
    oto: Oto
    table: FrequencyTable


def voicebank() -> list[Syllable]:
    """The Erithacus voicebank: 101 Japanese syllables, each held on one note; CC BY 4.0, credit Erithacus.

    In the order of its `oto.ini`. `InputError` if `audio/ErithacusVB.tar.xz` is not under `data_root()`.
    """
    archive = _present("ErithacusVB.tar.xz", "the Erithacus voicebank")
    settings = sorted(unpacked(archive).rglob("oto.ini"))
    if not settings:
        raise InputError(f"{archive}: holds no oto.ini; expected an UTAU voicebank.")
    return [syllable for path in settings for syllable in read_voicebank(path.parent)]


def read_voicebank(folder: Path) -> list[Syllable]:
    """Read an UTAU voicebank: `oto.ini` and, beside each recording X.wav, its frequencies X_wav.frq."""
    entries = read_oto(folder / "oto.ini")
    syllables: list[Syllable] = []
    for name, alias, oto in entries:
        path = folder / name
        if not path.is_file():
            raise InputError(f"{folder / 'oto.ini'}: names {name}, but there is no such file beside it.")
        table = read_frequencies(path.with_name(f"{path.stem}_wav.frq"))
        syllables.append(Syllable(path, alias or path.stem, oto, table))
    return syllables


def read_oto(path: Path) -> list[tuple[str, str, Oto]]:
    """The file name, alias and timing of each line `FILE=ALIAS,OFFSET,CONSONANT,CUTOFF,PREUTTERANCE,OVERLAP` (ms).

    Shift-JIS, as UTAU writes it. Raises `InputError` that names the line.
    """
    try:
        lines = path.read_text(encoding="cp932").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; expected the timing of an UTAU voicebank.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not Shift-JIS text; expected an UTAU oto.ini.") from None
    return [_entry(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _entry(path: Path, number: int, line: str) -> tuple[str, str, Oto]:
    name, _, rest = line.partition("=")
    alias, *numbers = rest.split(",")
    try:
        offset, consonant, cutoff, preutterance, overlap = (float(word or 0) / 1000 for word in numbers)
    except ValueError:
        expected = "FILE=ALIAS,OFFSET,CONSONANT,CUTOFF,PREUTTERANCE,OVERLAP"
        raise InputError(f"{path}, line {number}: {line.strip()!r}; expected {expected}.") from None
    return name.strip(), alias.strip(), Oto(offset, consonant, cutoff, preutterance, overlap)


_FREQUENCIES = np.dtype(
    [("format", "S8"), ("hop", "<i4"), ("mean", "<f8"), ("unused", "V16"), ("frames", "<i4")]
)  # 40 bytes, without gaps


def read_frequencies(path: Path) -> FrequencyTable:
    """Read an UTAU frequency table: a header, then pairs of doubles (f0, amplitude). `InputError` if it is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; expected the UTAU frequency table of a recording.") from None
    if len(data) < _FREQUENCIES.itemsize or not data.startswith(b"FREQ0003"):
        raise InputError(f"{path}: begins with {data[:8]!r}; expected an UTAU frequency table, FREQ0003.")
    header = np.frombuffer(data, _FREQUENCIES, count=1)[0]
    body, frames = data[_FREQUENCIES.itemsize :], int(header["frames"])
    if len(body) != 16 * frames:
        raise InputError(f"{path}: is {len(body)} bytes after its header; expected {16 * frames}, for {frames} frames.")
    pairs = torch.from_numpy(np.frombuffer(body, "<f8").reshape(-1, 2).astype(np.float32))
    if not bool(torch.isfinite(pairs).all()):
        raise InputError(f"{path}: holds frequencies that are not finite; expected numbers.")
    return FrequencyTable(int(header["hop"]), float(header["mean"]), pairs[:, 0].contiguous(), pairs[:, 1].contiguous())


# --- plain folders ------------------------------------------------------------------------------------------


class NoisyPair(NamedTuple):
    """One sentence: as it was spoken, and with noise added; both 16 kHz and of one length."""

    name: str
    clean: Path
    noisy: Path


def noisy_pairs() -> list[NoisyPair]:
    """Six sentences of one speaker of VoiceBank-DEMAND (Valentini-Botinhao 2017), CC BY 4.0.

    `InputError` if `audio/vbd_debug` is not under `data_root()`, or if a file has no partner.
    """
    folder = _present("vbd_debug", "noisy and clean recordings")
    clean = {path.name: path for path in sorted((folder / "clean").glob("*.wav"))}
    noisy = {path.name: path for path in sorted((folder / "noisy").glob("*.wav"))}
    if alone := sorted(clean.keys() ^ noisy.keys()):
        raise InputError(f"{folder}: {alone[0]} is not in both clean and noisy; expected pairs of one name.")
    return [NoisyPair(Path(name).stem, clean[name], noisy[name]) for name in clean]


def samples() -> dict[str, Path]:
    """A few recordings by name: read sentences (CMU ARCTIC), a sung phrase, everyday noises.

    `InputError` if `audio/samples` is not under `data_root()`.
    """
    return {path.stem: path for path in sorted(_present("samples", "recordings").glob("*.wav"))}
