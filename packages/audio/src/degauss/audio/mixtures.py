r"""Training pairs for enhancement: speech with noise added at a level that is known.

    noisy = clean + g noise,   g^2 = P(clean) / (P(noise) 10^{snr / 10}),

where P(noise) is the mean power and P(clean) the power of *active* speech, so that pauses do not count: the level of
ITU-T P.56 in its simplest form, the mean power of the frames that lie less than 15.9 dB below it.

A pair is a function of (seed, number) alone: what is said, by whom, with which noise from where and at what level
follow from keyed numbers, so that a training run can be stopped, resumed and spread over processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from degauss.audio.enhancement import Pairs
from degauss.audio.waves import mono, read, resample
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise

# P.56's margin, and frames of about the length of a phone.
_MARGIN, _FRAME = 10 ** (15.9 / 10), 0.02
_ROUNDS = 20
_TINY = 1e-9

# What each keyed number of a pair decides.
_CHOICES = 6
_SPEAKER, _BEGIN, _NOISE, _PLACE, _SNR, _COLOUR = range(_CHOICES)
# Of a pair's microphones: for its speech, and for its noise.
_SPEECH, _NOISES, _OCTAVES = 1, 2, 8


class Level(NamedTuple):
    """Mean power of the active frames, and the share of frames that are active."""

    power: float
    activity: float


def active_level(x: Tensor, rate: int) -> Level:
    """The level of the speech in ``x [n]``, without its pauses; (0, 0) for silence."""
    size = max(1, round(_FRAME * rate))
    frames = F.pad(x.double(), (0, -len(x) % size)).reshape(-1, size).square().mean(-1)
    power = float(frames.mean())
    if power == 0:
        return Level(0.0, 0.0)
    chosen = frames > 0
    for _ in range(_ROUNDS):  # the threshold rises with the level until neither moves
        chosen = frames >= power / _MARGIN
        before, power = power, float(frames[chosen].mean())
        if power == before:
            break
    return Level(power, float(chosen.double().mean()))


def mix(clean: Tensor, noise: Tensor, snr: float, rate: int) -> Tensor:
    """Speech and noise ``[n]`` at ``snr`` dB of active speech to noise; ValueError where either is silent."""
    speech, power = active_level(clean, rate).power, float(noise.double().square().mean())
    if not speech > 0 or not power > 0:
        raise ValueError("speech and noise must both sound for a ratio between them")
    return clean + noise * (speech / power / 10 ** (snr / 10)) ** 0.5


def excerpt(noise: Tensor, length: int, place: float) -> Tensor:
    """``length`` samples of a noise ``[m]``: from a ``place`` in [0, 1) of it; repeated where it is shorter."""
    if len(noise) < length:
        begin = int(place * len(noise))
        return noise[(torch.arange(length) + begin) % len(noise)]
    begin = int(place * (len(noise) - length + 1))
    return noise[begin : begin + length]


def coloured(noise: Tensor, slope: float) -> Tensor:
    """The noise ``[n]`` with its spectrum tilted by ``slope`` dB an octave: one recording, many noises."""
    spectrum = torch.fft.rfft(noise)
    order = torch.arange(len(spectrum), dtype=noise.dtype).clamp_min(1)
    # 6.02 dB an octave are a factor of f.
    return torch.fft.irfft(spectrum * order ** (slope / 6.0206), n=len(noise))


def filtered(x: Tensor, gains: Tensor) -> Tensor:
    """The sound ``[n]`` with a gain in dB for each octave below half its rate, the highest first, joined by lines."""
    spectrum = torch.fft.rfft(x)
    place = torch.arange(len(spectrum), dtype=x.dtype).clamp_min(1) / max(1, len(spectrum) - 1)
    below = (-torch.log2(place)).clamp(0, len(gains) - 1)
    first = below.floor().long().clamp_max(len(gains) - 2)
    decibels = torch.lerp(gains[first], gains[first + 1], below - first)
    return torch.fft.irfft(spectrum * 10 ** (decibels / 20), n=len(x))


@dataclass(frozen=True, eq=False)
class Recordings(Sequence[Tensor]):
    """Sound files as sounds ``[n]`` at one rate, the mean of their channels; read when asked for."""

    paths: Sequence[Path]
    rate: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _heard(self.paths[index], self.rate)


@lru_cache(maxsize=512)
def _heard(path: Path, rate: int) -> Tensor:
    return mono(resample(read(path), rate))


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Numbers -> pairs, for ``degauss.core.train``: strings of words by one speaker, in noise.

    ``speakers``: for each, recordings ``[n]`` of words or sentences. They are joined, with pauses of 0.05 to 0.25 s,
    until ``seconds`` are full, from a random place in the first. ``noises`` ``[m]``: one is chosen evenly, from a
    random place, tilted by up to ``tilt`` dB an octave either way. ``colour``: the deviation in dB of a gain for each
    octave, drawn for speech and noise each, as if every pair had microphones of its own (what learns from few voices
    and few noises must not learn their spectra by heart: Valin 2018, "A Hybrid DSP/Deep Learning Approach to Real-Time
    Full-Band Speech Enhancement", section IV). ``snr``: the range in dB, uniform. Either may be `Recordings` that are
    read when they are needed. Where a recording is silent the other is left as it is.
    """

    speakers: Sequence[Sequence[Tensor]]
    noises: Sequence[Tensor]
    rate: int
    seconds: float = 2.0
    snr: tuple[float, float] = (-5.0, 15.0)
    tilt: float = 3.0
    seed: int = 0
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not self.speakers or not all(self.speakers):
            raise InputError("there is no speech to mix: expected a recording of each speaker or more.")
        if not self.noises:
            raise InputError("there is no noise to mix in: expected one recording or more.")
        if not self.snr[0] <= self.snr[1]:
            raise InputError(f"snr must be a range from low to high, but is {self.snr}.")
        check_range("seconds", self.seconds, 0.1)
        check_range("tilt", self.tilt, 0)
        check_range("colour", self.colour, 0)

    @property
    def length(self) -> int:
        return round(self.seconds * self.rate)

    def __call__(self, samples: Sequence[int]) -> Pairs:
        clean, noisy = zip(*(self.pair(number) for number in samples), strict=True)
        return Pairs(torch.stack(noisy), torch.stack(clean))

    def pair(self, number: int) -> tuple[Tensor, Tensor]:
        """(clean, noisy), each ``[length]``, the louder of the two with a peak of 1."""
        speech = self.said(number)
        return self.noised(number, speech, speech)

    def noised(self, number: int, target: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
        """(target, speech in the noise of a pair), each ``[length]``, of one scale: the louder has a peak of 1."""
        drawn = self._drawn(number)
        noise = excerpt(self.noises[_pick(drawn[_NOISE], len(self.noises))], self.length, drawn[_PLACE])
        noise = self._heard(number, _NOISES, coloured(noise, self.tilt * (2 * drawn[_COLOUR] - 1)))
        low, high = self.snr
        both = bool(speech.any()) and bool(noise.any())
        snr = low + (high - low) * drawn[_SNR]
        noisy = mix(speech, noise, snr, self.rate) if both else speech + noise
        peak = torch.maximum(target.abs().max(), noisy.abs().max()).clamp_min(_TINY)
        return target / peak, noisy / peak

    def said(self, number: int) -> Tensor:
        """The speech of a pair before anything is done to it, ``[length]``, of unit peak."""
        drawn = self._drawn(number)
        speech = self._heard(number, _SPEECH, self.speech(number, drawn[_SPEAKER], drawn[_BEGIN]))
        return speech / speech.abs().max().clamp_min(_TINY)

    def _heard(self, number: int, which: int, x: Tensor) -> Tensor:
        """A sound through a microphone of its pair's own."""
        if self.colour == 0:
            return x
        gains = Noise(self.seed, [number]).fork(which).normal(torch.empty(1, _OCTAVES, dtype=x.dtype))[0]
        return filtered(x, self.colour * gains)

    def _drawn(self, number: int) -> list[float]:
        return Noise(self.seed, [number]).uniform(torch.empty(1, _CHOICES, dtype=torch.float64))[0].tolist()

    def speech(self, number: int, speaker: float, begin: float) -> Tensor:
        """Words of the speaker at ``speaker`` in [0, 1), the first from ``begin`` in [0, 1) of what it could spare."""
        words = self.speakers[_pick(speaker, len(self.speakers))]
        noise, parts, have, turn = Noise(self.seed, [number]), list[Tensor](), 0, 0
        while have < self.length:
            which, pause = noise.uniform(torch.empty(1, 2, dtype=torch.float64), draw=1 + turn)[0].tolist()
            word = words[_pick(which, len(words))]
            # Within a long first recording, anywhere; a short one is heard from its beginning.
            if not parts:
                word = word[int(begin * max(0, len(word) - self.length)) :]
            gap = torch.zeros(round((0.05 + 0.2 * pause) * self.rate))
            parts += [word / word.abs().max().clamp_min(_TINY), gap]
            have, turn = have + len(word) + len(gap), turn + 1
        joined = torch.cat(parts)[: self.length]
        return joined / joined.abs().max().clamp_min(_TINY)

    def at(self, snr: float) -> Mixtures:
        """The same pairs at one ratio in dB."""
        return replace(self, snr=(snr, snr))


def _pick(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


# --- what can be mixed of the public recordings -------------------------------------------------------------


class Split(NamedTuple):
    """Words by speaker, and noises by name, of training, of choosing settings, or of a test."""

    speakers: Mapping[str, Sequence[Tensor]]
    noises: Mapping[str, Tensor]

    def mixtures(self, rate: int, seed: int, seconds: float = 2.0, tilt: float = 3.0) -> Mixtures:
        words = [list(recordings) for recordings in self.speakers.values()]
        return Mixtures(words, list(self.noises.values()), rate, seconds, tilt=tilt, seed=seed)


class Splits(NamedTuple):
    """Speakers and noises of the test are heard nowhere else; validation has takes and stretches of its own."""

    train: Split
    valid: Split
    test: Split


RATE = 8000
_DIGIT_SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
# Seconds of the two long recordings that are kept for validation.
_KEPT = 20.0


def digit_splits(fold: int = 0) -> Splits:
    """Spoken digits and noises at 8 kHz; ``fold`` 0 to 2 says which two of the six speakers are the test.

    Speech: training takes 10 to 49 of the other four, validation their takes 5 to 9, test takes 0 to 4 of the two.
    Noises: training a kitchen and an exercise bike, white, pink, hum, clicks, and babble of the training speakers;
    validation the last 20 s of the two recordings, other babble and pink noise; test a street, and what was added to
    six sentences of VoiceBank-DEMAND. Raises `InputError` where the recordings are not at hand.
    """
    from degauss.audio import datasets

    def heard(path: Path) -> Tensor:
        return mono(resample(read(path), RATE))

    check_range("fold", fold, 0, 2)
    tested = _DIGIT_SPEAKERS[2 * fold : 2 * fold + 2]
    words: list[dict[str, list[Tensor]]] = [{}, {}, {}]
    for digit in datasets.digits():
        unseen = digit.speaker in tested
        if unseen != digit.held_out:
            continue  # early takes of known speakers and late ones of unknown: heard by nobody
        part = 2 if unseen else int(digit.take < 10)
        words[part].setdefault(digit.speaker, []).append(heard(digit.path))
    recorded = datasets.samples()
    long = {name: heard(recorded[name]) for name in ("doing_the_dishes", "exercise_bike")}
    kept = round(_KEPT * RATE)
    pairs = datasets.noisy_pairs()
    street = {"street": heard(recorded["noise_freesound_573577"])}
    added = {pair.name: heard(pair.noisy) - heard(pair.clean) for pair in pairs}
    noises = (
        {name: noise[:-kept] for name, noise in long.items()} | _synthetic(words[0], 10 * RATE, fold),
        {name: noise[-kept:] for name, noise in long.items()} | _synthetic(words[1], 5 * RATE, fold + 10, plain=False),
        street | added,
    )
    return Splits(*(Split(said, noise) for said, noise in zip(words, noises, strict=True)))


def _synthetic(
    words: Mapping[str, Sequence[Tensor]], length: int, seed: int, *, plain: bool = True
) -> dict[str, Tensor]:
    """Noises that are made; ``plain``: with those that have nothing of speech or of the world in them."""
    from degauss.audio import synthetic

    made = {"pink": synthetic.pink(length, seed), "babble": babble(words, length, seed)}
    if plain:
        made |= {
            "white": synthetic.white(length, seed),
            "hum": synthetic.hum(length, RATE),
            "clicks": synthetic.clicks(length, RATE, seed),
        }
    return made


def babble(words: Mapping[str, Sequence[Tensor]], length: int, seed: int, voices: int = 6, rate: int = RATE) -> Tensor:
    """``length`` samples of several people who talk at once, each a string of their own words."""
    total = torch.zeros(length)
    everyone = [list(recordings) for recordings in words.values()]
    for voice in range(voices):
        picked = [everyone[voice % len(everyone)]]
        talk = Mixtures(picked, [torch.ones(1)], rate, length / rate, seed=seed)
        total += talk.speech(voice, 0.0, 0.0)
    return total / total.square().mean().sqrt()
