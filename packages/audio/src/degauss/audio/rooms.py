r"""Reverberant speech and its dry target, from simulated rooms.

A room is a box; its walls absorb what Sabine's formula asks for the wanted time of reverberation, and sound takes
every path of the image method. The target is the same voice heard at the same place between walls that absorb 99 %: the
direct sound, with its delay and its loss, so that a model learns to remove the room and not to move the microphone.

Needs pyroomacoustics, the extra of ``pip install "degauss-audio[rooms]"``. Ranges and target as in Lemercier et al.
2023 ("StoRM"), section IV-A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio.enhancement import Pairs
from degauss.audio.mixtures import Mixtures
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise

Place = tuple[float, float, float]

# What the walls of the dry target absorb, and how near to a wall anything may stand (m).
_DRY, _MARGIN = 0.99, 0.5
# Images beyond this many reflections are left out: what they carry is below hearing, and they cost most.
_ORDER = 40
_BLOCK = 1024
# Draws of a room, after those that a mixture of the same number takes.
_DRAW = 1 << 16

KEPT = 256
"""Rooms whose responses are kept, at 16 kHz about 0.2 MB each."""


@dataclass(frozen=True)
class Room:
    """A box: ``size`` (m), ``t60`` (s, the time in which sound falls by 60 dB), where the voice and the microphone are.

    Raises `InputError` for a place outside of it, or for a time so short that no wall absorbs enough.
    """

    size: Place
    t60: float
    source: Place
    microphone: Place

    def __post_init__(self) -> None:
        for name in ("source", "microphone"):
            where = getattr(self, name)
            if not all(0 < at < side for at, side in zip(where, self.size, strict=True)):
                raise InputError(f"{name} must be inside a room of {self.size} m, but is at {where}.")
        if not 0 < self.absorption <= 1:
            shortest = self.t60 * self.absorption
            raise InputError(f"t60 must be at least {shortest:.2f} s in this room, but is {self.t60}.")

    @property
    def absorption(self) -> float:
        """Of energy, at each reflection, by Sabine: 24 ln(10) V / (c S t60)."""
        x, y, z = self.size
        return 24 * math.log(10) * x * y * z / (343.0 * 2 * (x * y + y * z + x * z) * self.t60)

    @property
    def distance(self) -> float:
        """From the voice to the microphone (m)."""
        return math.dist(self.source, self.microphone)


def drawn_room(seed: int, number: int) -> Room:
    """A room by its number: 5 to 15 m long and wide, 2 to 6 m high, t60 of 0.4 to 1.0 s."""
    u = Noise(seed, [number]).uniform(torch.empty(1, 10, dtype=torch.float64), draw=_DRAW)[0].tolist()
    size = (5 + 10 * u[0], 5 + 10 * u[1], 2 + 4 * u[2])
    source, microphone = (
        tuple(_MARGIN + (side - 2 * _MARGIN) * share for side, share in zip(size, shares, strict=True))
        for shares in (u[4:7], u[7:10])
    )
    return Room(size, 0.4 + 0.6 * u[3], source, microphone)


class Responses(NamedTuple):
    """Impulse responses ``[n]`` and ``[m]`` from the voice to the microphone, in the room and without it."""

    wet: Tensor
    dry: Tensor


@lru_cache(maxsize=KEPT)
def responses(room: Room, rate: int) -> Responses:
    """What a clap sounds like; `ImportError` that names the extra where pyroomacoustics is missing."""
    return Responses(_response(room, rate, room.absorption, _ORDER), _response(room, rate, _DRY, 1))


def _response(room: Room, rate: int, absorption: float, order: int) -> Tensor:
    try:
        import pyroomacoustics
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"degauss.audio.rooms needs {missing.name}, which is not installed; expected the extra of "
            'pip install "degauss-audio[rooms]".'
        ) from missing
    tool: Any = pyroomacoustics
    box = tool.ShoeBox(list(room.size), fs=rate, materials=tool.Material(absorption), max_order=order)
    box.add_source(list(room.source))
    box.add_microphone(list(room.microphone))
    box.compute_rir()
    return torch.from_numpy(box.rir[0][0]).float()


def heard(speech: Tensor, response: Tensor) -> Tensor:
    """Speech ``[n]`` through an impulse response, ``[n]``: what comes after its end is cut."""
    # Transforms of a length with large prime factors are slow.
    size = -(-(len(speech) + len(response) - 1) // _BLOCK) * _BLOCK
    spectrum = torch.fft.rfft(speech, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[: len(speech)]


@dataclass(frozen=True, eq=False)
class Reverberant:
    """Numbers -> pairs, for ``degauss.core.train``: the speech of ``mixtures`` in rooms, without its noise.

    A pair has a room of its own, a function of its number.
    """

    mixtures: Mixtures

    def __call__(self, samples: Sequence[int]) -> Pairs:
        return _stacked(map(self.pair, samples))

    def pair(self, number: int) -> tuple[Tensor, Tensor]:
        """(dry, reverberant), each ``[length]``, of one scale: the louder has a peak of 1."""
        dry, wet = in_room(self.mixtures, number, number)
        peak = torch.maximum(dry.abs().max(), wet.abs().max()).clamp_min(torch.finfo(torch.float32).tiny)
        return dry / peak, wet / peak


@dataclass(frozen=True, eq=False)
class SomeInRooms:
    """Numbers -> pairs, for ``degauss.core.train``: ``mixtures``, of which a ``share`` is spoken in rooms.

    There the target is dry, and the ratio is that of the reverberant speech to the noise, which has no room. There are
    ``count`` rooms, each computed once; above `KEPT` they are computed again and again.
    """

    mixtures: Mixtures
    share: float = 0.5
    count: int = KEPT

    def __post_init__(self) -> None:
        check_range("rooms", self.share, 0, 1)
        check_range("count", self.count, 1)

    def __call__(self, samples: Sequence[int]) -> Pairs:
        return _stacked(map(self.pair, samples))

    def pair(self, number: int) -> tuple[Tensor, Tensor]:
        """(clean, noisy), each ``[length]``, of one scale: the louder has a peak of 1."""
        drawn = Noise(self.mixtures.seed, [number]).uniform(torch.empty(1, dtype=torch.float64), draw=_DRAW + 1)
        if not float(drawn) < self.share:
            return self.mixtures.pair(number)
        return self.mixtures.noised(number, *in_room(self.mixtures, number, number % self.count))


def in_room(mixtures: Mixtures, number: int, room: int) -> tuple[Tensor, Tensor]:
    """The speech of a pair, dry and in a room, each ``[length]``."""
    speech = mixtures.said(number)
    found = responses(drawn_room(mixtures.seed, room), mixtures.rate)
    return heard(speech, found.dry), heard(speech, found.wet)


def _stacked(pairs: Iterable[tuple[Tensor, Tensor]]) -> Pairs:
    """(clean, noisy) of each as a batch."""
    clean, noisy = zip(*pairs, strict=True)
    return Pairs(torch.stack(noisy), torch.stack(clean))
