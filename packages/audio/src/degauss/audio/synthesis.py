r"""From text or notes to sound: what is missing is predicted, then a mel is drawn, then a vocoder makes a wave of it.

    text --phones--> segment --durations, f0--> condition --shallow diffusion--> mel --vocoder--> wave

Whatever a segment holds already is taken as it is: phones, durations, notes and f0 may all be given, as in a full `.ds`
file, or left to the model. Durations that are predicted for a song are made to fit its notes. f0 that is given
without a gap leaves it to the model where there is no voice.

A rendering is a function of the model, the segment, the voice and the `Sampling`; its report says what was done and
what it cost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio import framing, lint
from degauss.audio.acoustic import AcousticModel
from degauss.audio.frontend import Batch, frames_inside
from degauss.audio.phones import Pronounce, read_text, refuse, speech
from degauss.audio.score import Segment, note_name, note_pitch
from degauss.audio.shallow import Boundary, at_time, draw
from degauss.audio.spectra import MelConfig
from degauss.audio.vocoders import Vocoder
from degauss.audio.waves import Wave
from degauss.core.errors import InputError, check_range
from degauss.core.solvers import solver_of

# Where shallow diffusion starts if nothing was fitted and nobody says otherwise: the middle of what the paper found
# for singing (51 to 71 of 100).
DEFAULT_BOUNDARY = 0.6
DEFAULT_SOLVER, DEFAULT_STEPS = "dpmpp", 12

# A voice may be asked for notes so far beyond those it was trained on.
_MARGIN = 2.0  # semitones

# Longer than this in one breath is refused: attention grows with the square of it.
LONGEST = 120.0  # s

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How mels are drawn. What is None is as the checkpoint says, else as the defaults of this module.

    ``boundary``: t_K in [0, 1], or a callable that gives it for each utterance. ``rate``: speed of speech, 1 as
    predicted, 2 twice as fast; of no effect on durations that are given.
    """

    solver: str | None = None
    steps: int | None = None
    boundary: float | Boundary | None = None
    seed: int = 0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_range("steps", self.steps, 1)
        check_range("rate", self.rate, 0.25, 4)

    def of(self, model: AcousticModel) -> tuple[str, int, Boundary]:
        """Solver, steps and boundary for a model."""
        facts = model.facts
        boundary = facts.boundary if self.boundary is None else self.boundary
        boundary = DEFAULT_BOUNDARY if boundary is None else boundary
        return (
            self.solver or facts.solver or DEFAULT_SOLVER,
            self.steps or facts.steps or DEFAULT_STEPS,
            boundary if callable(boundary) else at_time(boundary),
        )


class Rendering(NamedTuple):
    """A segment as sound, with its log-mels ``[mels, frames]`` and f0 ``[frames]`` in Hz, 0 where unvoiced.

    ``report``: what was done and what it cost, for JSON.
    """

    wave: Wave
    mel: Tensor
    f0: Tensor
    report: dict[str, Any]


class Song(NamedTuple):
    """Several segments as one sound, with f0 ``[frames]`` in Hz on its frames, and what was done, for JSON."""

    wave: Wave
    f0: Tensor
    report: dict[str, Any]


# --- what is said -------------------------------------------------------------------------------------------


def from_text(text: str, unknown: Pronounce = refuse) -> Segment:
    """English text as a segment; its durations and pitch are left to a model."""
    return speech(read_text(text, unknown))


def transposed(segment: Segment, semitones: float) -> Segment:
    """The same song so many semitones higher."""
    notes = tuple(
        name if (pitch := note_pitch(name)) is None else note_name(pitch + semitones) for name in segment.notes
    )
    return replace(segment, notes=notes, f0=tuple(hz * 2 ** (semitones / 12) for hz in segment.f0))


def check_song(model: AcousticModel, voice: str, segments: Sequence[Segment], name: str | Path) -> None:
    """`InputError` with the first thing that keeps a voice from singing this, and where it is."""
    span = model.facts.ranges.get(voice)
    sings = model.facts.sings and span is not None
    if not sings and any(note_pitch(note) is not None for segment in segments for note in segment.notes):
        raise InputError(f"{name}: has notes, but the model was trained on speech; expected a model that sings.")
    limits = lint.Limits(
        model.config.phones,
        span.low - _MARGIN if sings and span is not None else None,
        span.high + _MARGIN if sings and span is not None else None,
    )
    lint.check(segments, name, limits)
    for number, segment in enumerate(segments, 1):
        if segment.duration > LONGEST:
            raise InputError(
                f"{name}: segment {number} lasts {segment.duration:.0f} s; expected at most {LONGEST:.0f} s in one "
                "breath."
            )


# --- what is missing ----------------------------------------------------------------------------------------


@torch.no_grad()
def batch_of(model: AcousticModel, segment: Segment, voice: str | None, rate: float = 1.0) -> tuple[Batch, Segment]:
    """A segment as a batch of one, its durations and f0 filled in, and the segment with its durations."""
    mel, device = model.config.mel, model.device
    phones = torch.tensor([model.phone_numbers(segment.phones)])
    sung = framing.sung(segment)
    asked = Batch(
        phones=phones,
        durations=torch.ones_like(phones),
        voices=torch.tensor([model.voice(voice)]),
        notes=sung.notes[None],
        note_seconds=sung.seconds[None].float(),
        slurs=sung.slurs[None],
        melody=torch.zeros(1, 0),
        f0=torch.zeros(1, 0),
        mel=torch.zeros(1, mel.n_mels, 0),
    )
    asked = Batch(*(part.to(device) for part in asked))
    frontend = model.network.frontend
    encoded = frontend.encode(asked)
    seconds = torch.tensor(segment.durations, dtype=torch.float64)
    if not segment.durations:
        log_frames = frontend.log_durations(asked, encoded)[0].double().cpu()
        seconds = _seconds(segment, torch.expm1(log_frames).clamp(min=1) / framing.frames_per_second(mel), rate)
    total = float(seconds.sum())
    if total > LONGEST:
        raise InputError(f"the text lasts {total:.0f} s; expected at most {LONGEST:.0f} s in one go.")
    frames = framing.count(total, mel)
    asked = asked._replace(
        durations=framing.phone_frames(seconds, mel, frames)[None].to(device),
        melody=framing.melody(segment, mel, frames)[None].to(device),
    )
    pitch = frontend.predict_pitch(asked, encoded).f0
    if segment.f0:
        given = framing.f0_on_frames(segment, mel, frames).to(device)[None]
        pitch = given * (pitch > 0) if bool((given > 0).all()) else given
    filled = asked._replace(f0=pitch * frames_inside(asked.durations, frames))
    return filled, replace(segment, durations=tuple(seconds.tolist()))


def _seconds(segment: Segment, predicted: Tensor, rate: float) -> Tensor:
    """Predicted durations ``[p]``, as fast as asked for, or as long as the notes where there are notes."""
    if not segment.notes:
        return predicted / rate
    return framing.fit_words(predicted, framing.word_seconds(segment))


# --- rendering ----------------------------------------------------------------------------------------------


@torch.no_grad()
def render(
    model: AcousticModel,
    segment: Segment,
    vocoder: Vocoder,
    sampling: Sampling | None = None,
    *,
    voice: str | None = None,
    sample: int = 0,
    report: Report | None = None,
) -> Rendering:
    """A segment as sound. ``sample``: its number among those of a seed. ``report``: told (evaluations, of how many).

    Raises `InputError` for a phone or voice that the model does not know, a vocoder of other mels, or a run that
    diverged.
    """
    if vocoder.config != model.config.mel:
        raise InputError("the vocoder takes other mel spectra than the model makes; expected one trained on the same.")
    sampling = Sampling() if sampling is None else sampling
    solver, steps, boundary = sampling.of(model)
    begin = time.perf_counter()
    batch, said = batch_of(model, segment, voice, sampling.rate)
    drawn = draw(
        model,
        model.condition(batch),
        boundary,
        solver=solver_of(solver),
        steps=steps,
        seed=sampling.seed,
        samples=[sample],
        report=None if report is None else lambda done: report(done, steps),
    )
    acoustic = time.perf_counter() - begin
    mel, f0 = model.network.scale.inverse(drawn.mel[0]).cpu(), batch.f0[0].cpu()
    samples = vocoder(mel, f0)
    seconds = time.perf_counter() - begin
    wave = Wave(_quieter(samples)[None].float(), model.config.mel.rate)
    t, evaluations = drawn.times[0], drawn.evaluations[0]
    about = {
        "voice": model.config.voices[int(batch.voices[0])],
        "text": segment.text,
        "phones": list(said.phones),
        "durations": [round(value, 6) for value in said.durations],
        "seed": sampling.seed,
        "sample": sample,
        "solver": solver,
        "steps": steps if t else 0,
        "evaluations": evaluations,
        "K": round(t * model.config.steps, 6),
        "T": model.config.steps,
        "duration": wave.duration,
        "seconds": seconds,
        "acoustic_seconds": acoustic,
        "real_time_factor": seconds / max(wave.duration, 1e-9),
    }
    return Rendering(wave, mel, f0, about)


def _quieter(samples: Tensor) -> Tensor:
    """Samples whose peak is within full scale: turned down as a whole, never cut."""
    if not bool(torch.isfinite(samples).all()):
        raise InputError("the vocoder gave samples that are not finite; expected another vocoder.")
    peak = float(samples.abs().max()) if samples.numel() else 0.0
    return samples * (0.999 / peak) if peak > 0.999 else samples


def sing(
    model: AcousticModel,
    segments: Sequence[Segment],
    vocoder: Vocoder,
    sampling: Sampling | None = None,
    *,
    voice: str | None = None,
    report: Report | None = None,
) -> Song:
    """A whole song: each segment at its offset, phrases that overlap added up, silence between them.

    Time 0 of the sound is time 0 of the song. Segment k is sample k of the seed. ``report``: told (evaluations, of how
    many) over all segments.
    """
    if not segments:
        raise InputError("there is nothing to sing; expected at least one segment.")
    steps = (Sampling() if sampling is None else sampling).of(model)[1]

    def told(number: int) -> Report:
        return lambda done, _: None if report is None else report(number * steps + done, len(segments) * steps)

    parts = [
        render(model, segment, vocoder, sampling, voice=voice, sample=number, report=told(number))
        for number, segment in enumerate(segments)
    ]
    return _joined(parts, [segment.offset for segment in segments], model.config.mel)


def _joined(parts: Sequence[Rendering], offsets: Sequence[float], mel: MelConfig) -> Song:
    firsts = [max(0, round(offset * mel.rate)) for offset in offsets]
    waves = [part.wave.samples[0] for part in parts]
    samples = torch.zeros(max(first + len(wave) for first, wave in zip(firsts, waves, strict=True)))
    f0 = torch.zeros(mel.frames(len(samples)))
    for first, wave, part in zip(firsts, waves, parts, strict=True):
        samples[first : first + len(wave)] += wave
        frame = round(first / mel.hop)
        # Where phrases overlap one is silent, and has no pitch.
        there = f0[frame : frame + len(part.f0)]
        there.copy_(torch.where(part.f0[: len(there)] > 0, part.f0[: len(there)], there))
    wave = Wave(_quieter(samples)[None], mel.rate)
    seconds = math.fsum(part.report["seconds"] for part in parts)
    about = {
        **{name: parts[0].report[name] for name in ("voice", "seed", "solver", "steps", "T")},
        "evaluations": sum(part.report["evaluations"] for part in parts),
        "K": [part.report["K"] for part in parts],
        "duration": wave.duration,
        "seconds": seconds,
        "acoustic_seconds": math.fsum(part.report["acoustic_seconds"] for part in parts),
        # Of what was sung: silence between the phrases costs nothing and is not counted.
        "real_time_factor": seconds / max(math.fsum(part.wave.duration for part in parts), 1e-9),
        "segments": [
            {"offset": offset, **{name: part.report[name] for name in ("text", "phones", "durations", "K")}}
            for offset, part in zip(offsets, parts, strict=True)
        ],
    }
    return Song(wave, f0, about)
