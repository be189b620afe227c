"""Sound in memory and in files: samples with full scale 1, and the rate they were taken at.

Files go through libsndfile (WAV, FLAC, Ogg, MP3 and the like), so what is written opens everywhere. Nothing
is clipped, cut or repaired in silence: a file that cannot be used as it is raises `InputError`.
"""

from __future__ import annotations

import os
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.errors import InputError, check_option
from degauss.core.files import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from soundfile import SoundFile

# Signed integers of so many bits; the third kind holds float32.
_INTEGER_BITS = {"PCM_16": 16, "PCM_24": 24}
SUBTYPES = (*_INTEGER_BITS, "FLOAT")

LOUDEST = 0.999
"""Where a peak above full scale is scaled down to."""


class Wave(NamedTuple):
    """``samples``: float32 ``[channels, n]``, full scale is 1. ``rate``: samples a second of one channel (Hz)."""

    samples: Tensor
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[-1] / self.rate


def read(path: str | os.PathLike[str], *, channels: int | None = None, limit: float | None = None) -> Wave:
    """Read a sound file.

    ``channels``: the most that the caller can use; ``limit``: the longest, in seconds. Both are looked up in the
    file's header, before its samples are read. Raises `InputError` if the file is missing, is no sound, is cut short,
    has no samples, holds NaN or infinity, or is beyond ``channels`` or ``limit``.
    """
    import soundfile as sf

    file = Path(path)
    check_file(file)
    try:
        sound = sf.SoundFile(file)
    except (sf.SoundFileError, TypeError):  # TypeError: headerless sound, for which a rate must be named
        raise InputError(f"{file}: is not sound of a known kind; expected WAV, FLAC, Ogg or MP3.") from None
    with sound:
        rate, length = int(sound.samplerate), int(sound.frames)
        if length == 0:
            raise InputError(f"{file}: holds no samples; expected sound.")
        _check_size(file, int(sound.channels), length / rate, channels, limit)
        samples = torch.from_numpy(_decoded(file, sound)).T.contiguous()
    _check_finite(file, samples, rate)
    return Wave(samples, rate)


def write(path: str | os.PathLike[str], wave: Wave, subtype: str = "PCM_16") -> None:
    """Write a sound file, whole or not at all; its kind goes by the suffix (.wav, .flac, ...).

    ``subtype``: PCM_16, PCM_24 or FLOAT. Samples are rounded to the nearest integer level k / 2^(bits - 1), so a file
    that was read is written back exactly. A peak above full scale is never clipped: the whole wave is scaled to a peak
    of 0.999, with a warning. Raises `InputError` for a suffix or a subtype that cannot be written, `ValueError` for
    samples that are empty, not finite or not ``[channels, n]``.
    """
    import soundfile as sf

    kind = _kind(Path(path), subtype)
    samples = wave.samples.detach().to("cpu", torch.float64)
    if samples.ndim != 2 or samples.numel() == 0:
        raise ValueError(f"a wave has samples [channels, n], got {list(samples.shape)}")
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(f"refused to write {path}: samples are not finite")
    peak = float(samples.abs().max())
    if peak > 1:
        warnings.warn(f"{path}: the peak is {peak:.3f} of full scale; scaled down to {LOUDEST}.", stacklevel=2)
        samples = samples * (LOUDEST / peak)
    with atomic_path(path) as part:
        sf.write(part, _encoded(samples, subtype).T.numpy(), wave.rate, subtype=subtype, format=kind)


def resample(wave: Wave, rate: int) -> Wave:
    """The same sound at another rate, ``round(n * rate / wave.rate)`` samples long; soxr at its very high quality.

    Sample k of the result is the sound at k / rate seconds: there is no delay.
    """
    if rate < 1:
        raise ValueError(f"a rate is at least 1 Hz, got {rate}")
    if rate == wave.rate:
        return wave
    import soxr

    length = round(Fraction(wave.samples.shape[-1] * rate, wave.rate))
    # soxr rounds lengths its own way; beyond its end a wave is silent, so zeros change nothing but that.
    padded = torch.nn.functional.pad(wave.samples.detach().cpu(), (0, 2 + 2 * wave.rate // rate))
    new = soxr.resample(padded.T.numpy(), wave.rate, rate, quality="VHQ")
    return Wave(torch.from_numpy(new[:length]).T.contiguous(), rate)


def mono(wave: Wave) -> Tensor:
    """The mean of the channels, ``[n]``."""
    return wave.samples.mean(0)


def check_file(file: Path) -> None:
    """Raise `InputError` unless there is a file with something in it."""
    if not file.exists():
        raise InputError(f"{file}: no such file; expected sound.")
    if file.is_dir():
        raise InputError(f"{file}: is a folder; expected a sound file.")
    if file.stat().st_size == 0:
        raise InputError(f"{file}: is an empty file; expected sound.")


def check_audible(wave: Wave, name: str | os.PathLike[str], floor: float = -80.0) -> None:
    """Raise `InputError` if no channel ever moves more than ``floor`` dB of full scale from its mean."""
    peak = (wave.samples - wave.samples.mean(-1, keepdim=True)).abs().amax()
    if float(peak) <= 10 ** (floor / 20):
        raise InputError(f"{name}: is silent; expected sound above {floor:g} dB of full scale.")


def _check_size(file: Path, channels: int, seconds: float, most: int | None, limit: float | None) -> None:
    if most is not None and channels > most:
        raise InputError(f"{file}: has {channels} channels; expected {'one' if most == 1 else f'at most {most}'}.")
    if limit is not None and seconds > limit:
        raise InputError(f"{file}: lasts {_spoken(seconds)}; expected at most {_spoken(limit)}.")


def _decoded(file: Path, sound: SoundFile) -> NDArray[Any]:
    """All samples ``[n, channels]`` of an open file."""
    import soundfile as sf

    expected = int(sound.frames)
    try:
        data: NDArray[Any] = sound.read(dtype="float32", always_2d=True)
    except sf.SoundFileError as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise InputError(f"{file}: is damaged or cut short ({reason}); expected {expected} samples.") from None
    if len(data) < expected:
        raise InputError(f"{file}: is cut short after {len(data)} samples; expected {expected}, as its header says.")
    return data


def _check_finite(file: Path, samples: Tensor, rate: int) -> None:
    strange = (~torch.isfinite(samples)).any(0)
    if bool(strange.any()):
        first = int(strange.int().argmax()) / rate
        raise InputError(
            f"{file}: {int(strange.sum())} of {len(strange)} samples are not finite (NaN or infinite), the first at "
            f"{first:.3f} s; expected numbers."
        )


def _spoken(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def _kind(path: Path, subtype: str) -> str:
    """libsndfile's name for the kind of file that a path asks for."""
    import soundfile as sf

    check_option("subtype", subtype, SUBTYPES)
    kind = path.suffix.removeprefix(".").upper()
    if kind not in sf.available_formats():
        raise InputError(f"{path}: no sound can be written to {path.suffix or 'a name without a suffix'!r}; use .wav.")
    if not sf.check_format(kind, subtype):
        raise InputError(f"{path}: {kind} files cannot hold {subtype}; use .wav.")
    return kind


def _encoded(samples: Tensor, subtype: str) -> Any:
    """Samples as libsndfile stores them unchanged: integers at the top of their type, or float32."""
    if subtype == "FLOAT":
        return samples.float()
    bits = _INTEGER_BITS[subtype]
    top = 1 << (bits - 1)
    levels = (samples * top).round().clamp(-top, top - 1)
    return levels.to(torch.int16) if bits == 16 else levels.to(torch.int32) << (32 - bits)
