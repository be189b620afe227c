r"""Sound files of any length, a block at a time: looked through, read at another rate, and written.

    scan(path)                     its rate, channels and length, once all of it has been found to be usable
    blocks(path, rate)             its channels at another rate
    cleaned(path, make, rate)      what a process for each channel makes of it, at its own rate again

Every rate is reached by soxr at its very high quality, without delay: sample k is the sound at k / rate seconds. What
is written is as long as what was read, in as many channels. It is never clipped: where its peak passes full scale all
of it is written at a lower volume, by a factor that is returned.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degauss.audio.waves import LOUDEST, check_file
from degauss.core.errors import InputError
from degauss.core.files import atomic_path

# Samples of a channel at once: a second or so, so that memory is small and calls are few.
_BLOCK = 1 << 16
# What is written in the kind it was read in; anything else becomes 16 bits.
_KEPT = ("PCM_16", "PCM_24", "FLOAT")


class Found(NamedTuple):
    """A file that can be used: ``rate`` in Hz, ``channels``, ``length`` in samples, ``subtype`` of its samples."""

    rate: int
    channels: int
    length: int
    subtype: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.length / self.rate


def scan(path: Path) -> Found:
    """Look through a whole file, in little memory.

    Raises `InputError` if it is missing, no sound, cut short, empty, silent, or holds what is not finite (where).
    """
    import soundfile as sf

    check_file(path)
    count, peak = 0, 0.0
    try:
        with sf.SoundFile(path) as file:
            rate, channels, length = int(file.samplerate), int(file.channels), int(file.frames)
            subtype = str(file.subtype)
            for block in _read(file):
                strange = ~np.isfinite(block).all(axis=1)
                if strange.any():
                    where = (count + int(strange.argmax())) / rate
                    raise InputError(f"{path}: holds NaN or infinity, the first at {where:.3f} s; expected numbers.")
                count, peak = count + len(block), max(peak, float(np.abs(block).max()))
    except (sf.SoundFileError, TypeError):  # TypeError: headerless sound, for which a rate must be named
        raise InputError(f"{path}: is not sound of a known kind; expected WAV, FLAC, Ogg or MP3.") from None
    if count == 0:
        raise InputError(f"{path}: holds no samples; expected sound.")
    if count < length:
        raise InputError(f"{path}: is cut short: {count} samples a channel, but its header says {length}.")
    if peak == 0:
        raise InputError(f"{path}: is silent throughout; expected sound.")
    return Found(rate, channels, count, subtype)


def _read(file: Any) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """Blocks ``[samples, channels]``."""
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


class Resampled:
    """A stream of blocks ``[channels, m]`` at one rate as blocks ``[channels, k]`` at another.

    A soxr stream inside has a state of its own: one of these serves one sound, and `push` and `finish` are called once
    for each of its blocks. What comes out in all is round(n new / old) samples.
    """

    def __init__(self, old: int, new: int, channels: int) -> None:
        import soxr

        self._stream = None if old == new else soxr.ResampleStream(old, new, channels, dtype="float32", quality="VHQ")
        self._ratio = Fraction(new, old)
        self._taken = self._given = 0

    def push(self, block: Tensor) -> Tensor:
        """Take in a block; gives what is settled."""
        if self._stream is None:
            return block
        self._taken += block.shape[1]
        return self._out(self._stream.resample_chunk(block.T.contiguous().numpy()), len(block))

    def finish(self, channels: int) -> Tensor:
        """The rest."""
        if self._stream is None:
            return torch.zeros(channels, 0)
        rest = self._out(self._stream.resample_chunk(np.zeros((0, channels), np.float32), last=True), channels)
        total = round(self._taken * self._ratio)
        # soxr rounds lengths in its own way, to within a sample.
        missing = total - self._given
        return torch.nn.functional.pad(rest, (0, missing)) if missing >= 0 else rest[:, :missing]

    def _out(self, made: np.ndarray[Any, Any], channels: int) -> Tensor:
        self._given += len(made)
        return torch.from_numpy(made).reshape(-1, channels).T


def blocks(path: Path, rate: int) -> Iterator[Tensor]:
    """The channels of a file at a rate, in blocks ``[channels, m]``."""
    import soundfile as sf

    with sf.SoundFile(path) as file:
        resampled = Resampled(int(file.samplerate), rate, int(file.channels))
        for block in _read(file):
            yield resampled.push(torch.from_numpy(block).T)
        yield resampled.finish(int(file.channels))


Make = Callable[[Iterable[Tensor]], Iterator[Tensor]]
"""The blocks ``[channels, m]`` of a sound -> blocks of what is made of it, as many samples in all."""


def cleaned(path: Path, found: Found, make: Make, rate: int) -> Iterator[Tensor]:
    """A file through a process that works at ``rate``: blocks ``[channels, m]`` at the file's rate, of its length."""
    resampled = Resampled(rate, found.rate, found.channels)
    left = found.length
    for block in _and_rest(make(blocks(path, rate)), resampled, found.channels):
        # The way to another rate and back may round the length by a sample.
        yield block[:, :left]
        left -= min(left, block.shape[1])
    if left:
        yield torch.zeros(found.channels, left)


def _and_rest(made: Iterable[Tensor], resampled: Resampled, channels: int) -> Iterator[Tensor]:
    for block in made:
        yield resampled.push(block)
    yield resampled.finish(channels)


def write(path: Path, sound: Iterable[Tensor], found: Found) -> float:
    """Write blocks ``[channels, m]`` as a file like the one that was found, whole or not at all; returns the volume.

    The volume is 1, or what the sound had to be multiplied by for a peak of 0.999. Until that is known, all of it lies
    in a temporary file beside, as float32. Raises `InputError` for a suffix that cannot be written.
    """
    import soundfile as sf

    kind = path.suffix.removeprefix(".").upper()
    if kind not in sf.available_formats():
        raise InputError(f"{path}: no sound can be written to {path.suffix or 'a name without a suffix'!r}; use .wav.")
    kept = found.subtype in _KEPT and sf.check_format(kind, found.subtype)
    subtype = found.subtype if kept else sf.default_subtype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as scratch, atomic_path(path) as part:
        peak = 0.0
        for block in sound:
            if block.numel():
                peak = max(peak, float(block.abs().max()))
                scratch.write(block.T.contiguous().numpy().tobytes())
        volume = 1.0 if peak <= 1 else LOUDEST / peak
        scratch.seek(0)
        with sf.SoundFile(
            part, "w", found.rate, found.channels, subtype or sf.default_subtype(kind), format=kind
        ) as file:
            while data := scratch.read(4 * _BLOCK * found.channels):
                file.write(np.frombuffer(data, np.float32).reshape(-1, found.channels) * np.float32(volume))
    return volume
