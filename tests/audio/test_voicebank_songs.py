"""What is sung from a voicebank is what the score says: exact times, exact pitch, no clicks, the right syllables."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.audio import pitch
from degauss.audio.datasets import Syllable, read_voicebank
from degauss.audio.lyrics import Note, japanese, sung
from degauss.audio.metrics import steady_note_errors
from degauss.audio.score import Segment
from degauss.audio.synthetic import VOWELS, vibrato, vowel
from degauss.audio.voicebank_songs import STEP, Manner, Voicebank, sing, timed, units
from degauss.audio.waves import Wave, write
from degauss.core.errors import InputError
from degauss.core.noise import Noise

RATE, HOP = 16000, 80
RECORDED, OFFSET, CONSONANT, HELD = 140.0, 0.2, 0.12, 0.8  # Hz, then seconds
TUNE = (("sa", 57, 0.5), ("i", 60, 0.4), ("su", 64, 0.5), ("-", 62, 0.6), ("a", 52, 1.2), ("n", 55, 0.5))


def write_bank(folder: Path) -> None:
    """A bank of two vowels, s before a vowel, and n, each on 140 Hz in silence; tables are an octave off outside.

    Halfway through, s becomes ten times as loud.
    """
    lines: list[str] = []
    for romaji in ("a", "i", "sa", "su", "n"):
        size = round(HELD * RATE)
        voice = 0.1 * vowel(VOWELS["u" if romaji == "n" else romaji[-1]], vibrato(RECORDED, size, RATE, 10.0), RATE)
        voice[-800:] *= torch.linspace(1, 0, 800)  # the voice lets go
        hiss = 0.02 * Noise(1, [0]).normal(torch.empty(1, round(CONSONANT * RATE)))[0]
        hiss[: len(hiss) // 2] *= 0.1
        silence = torch.zeros(round(OFFSET * RATE))
        samples = torch.cat([silence, *([hiss] if romaji[0] == "s" else []), voice, silence])
        write(folder / f"{romaji}.wav", Wave(samples[None], RATE))
        preutterance = CONSONANT if romaji[0] == "s" else 0.03
        length = len(samples) / RATE - 2 * OFFSET
        times = (OFFSET, preutterance + 0.1, -length, preutterance, 0.02)
        lines.append(f"{romaji}.wav={romaji}," + ",".join(f"{1000 * seconds:.1f}" for seconds in times))
        frames = len(samples) // 64
        f0 = np.full(frames, RECORDED)
        f0[: round((OFFSET + preutterance) * RATE / 64)] = 2 * RECORDED
        header = b"FREQ0003" + struct.pack("<id", 64, RECORDED) + bytes(16) + struct.pack("<i", frames)
        (folder / f"{romaji}_wav.frq").write_bytes(header + np.stack([f0, f0], 1).astype("<f8").tobytes())
    (folder / "oto.ini").write_text("\n".join(lines), encoding="cp932")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Voicebank:
    folder = tmp_path_factory.mktemp("bank")
    write_bank(folder)
    return Voicebank.of(read_voicebank(folder), RATE)


@pytest.fixture(scope="module")
def song() -> Segment:
    return segment_of(*TUNE)


def segment_of(*tune: tuple[str, int, float]) -> Segment:
    """A phrase after a rest of 0.4 s."""
    notes: list[Note] = []
    at = 0.4
    for lyric, number, seconds in tune:
        notes.append(Note(at, at + seconds, number, lyric))
        at += seconds
    return sung(notes, japanese)[0]


def heard(wave: Wave) -> Tensor:
    return pitch.f0_harvest(wave.samples[0], wave.rate, HOP, low=70.0, high=700.0)


def test_notes_are_in_tune(bank: Voicebank, song: Segment) -> None:
    found = steady_note_errors(heard(sing(bank, song).wave), HOP / RATE, song.notes, song.note_durations)
    assert found.unsung == 0
    assert len(found.cents) == len(TUNE)
    assert found.rmse < 5.0
    # Must fail: the same song sung a quarter tone higher.
    high = replace(song, notes=tuple(note if note == "rest" else f"{note}+50" for note in song.notes))
    off = steady_note_errors(heard(sing(bank, high).wave), HOP / RATE, song.notes, song.note_durations)
    assert float(off.cents.mean()) == pytest.approx(50, abs=5)


def test_a_real_bank_is_in_tune_within_15_cents(voicebank: list[Syllable]) -> None:
    tune = (("so", 57, 0.5), ("ku", 61, 0.4), ("kyo", 64, 0.6), ("-", 66, 0.6), ("n", 45, 0.5), ("o", 69, 0.8))
    song = segment_of(*tune)
    made = sing(Voicebank.of(voicebank, RATE), song)
    found = steady_note_errors(heard(made.wave), HOP / RATE, song.notes, song.note_durations)
    assert (found.unsung, len(found.cents)) == (0, len(tune))
    assert found.rmse < 15.0
    assert made.wave.samples.abs().max() < 1


def test_f0_of_the_sound_is_the_f0_that_is_said(bank: Voicebank, song: Segment) -> None:
    made = sing(bank, song)
    said, found = torch.tensor(made.segment.f0), heard(made.wave)
    assert len(said) == len(found)
    assert made.segment.f0_step == STEP == HOP / RATE
    off = pitch.cents(found, said)
    # Over all of it, glides and vibrato included.
    assert float(off.abs().nanquantile(0.9)) < 12
    # Estimators are a few frames late to find and to lose a voice, at each of four changes.
    assert float(((found > 0) != (said > 0)).double().mean()) < 0.1


def test_durations_are_exact(bank: Voicebank, song: Segment) -> None:
    made = sing(bank, song)
    assert made.wave.samples.shape == (1, round(RATE * sum(song.note_durations)))
    assert sum(made.segment.durations) == pytest.approx(sum(song.note_durations), abs=1e-9)
    assert made.segment.phones == song.phones
    assert made.segment.notes == song.notes
    starts = dict(zip(song.phones, accumulate(made.segment.durations, initial=0.0), strict=False))
    assert starts["i"] == pytest.approx(0.4 + 0.5)  # a vowel begins with its note
    assert made.segment.durations[1] == pytest.approx(CONSONANT)  # as it was recorded
    odd = replace(song, durations=(), note_durations=(0.40001, *song.note_durations[1:]))
    assert len(sing(bank, odd).wave.samples[0]) == round(RATE * sum(odd.note_durations))


def test_given_durations_are_kept(bank: Voicebank) -> None:
    wanted = Segment(("SP", "s", "a", "SP"), (0.3, 0.3, 0.5, 0.2), (2, 1, 1), ("rest", "A3", "rest"), (0.6, 0.5, 0.2))
    made = sing(bank, wanted)
    assert made.segment.durations == wanted.durations
    # The hiss is stretched: it becomes loud in its middle, 30 frames after it began, and has no voice.
    x, said = made.wave.samples[0], torch.tensor(made.segment.f0)
    loud = x.unfold(0, HOP, HOP).square().mean(1).sqrt()
    assert float(loud[:50].max()) < 1e-4
    assert float(loud[65:85].mean()) < 0.3 * float(loud[95:115].mean())
    assert float(loud[94:100].mean()) > 0.6 * float(loud[105:115].mean())
    assert not bool((said[:112] > 0).any())
    assert bool((said[125:215] > 0).all())


def test_a_voice_stops_where_the_next_consonant_begins(bank: Voicebank) -> None:
    wanted = Segment(("a", "s", "a"), (0.4, 0.2, 0.4), (2, 1), ("A3", "A3"), (0.6, 0.4))
    said = torch.tensor(sing(bank, wanted).segment.f0)
    assert bool((said[:80] > 0).all())
    assert not bool((said[82:112] > 0).any())


def test_a_short_note_leaves_half_to_its_vowel(bank: Voicebank) -> None:
    short = timed(bank, segment_of(("a", 57, 0.16), ("sa", 57, 0.5)))
    assert short.phones[1:4] == ("a", "s", "a")
    assert short.durations[1] == pytest.approx(0.08)
    assert short.durations[2] == pytest.approx(0.08)


def spectral_flux(x: Tensor) -> Tensor:
    """The sum of what rises from one spectrum to the next, every 4 ms."""
    frames = torch.stft(x, 128, 64, window=torch.hann_window(128), return_complex=True).abs()
    return frames.diff(dim=1).clamp(min=0).sum(0)


def test_joins_do_not_click(bank: Voicebank) -> None:
    tune = [("a" if k % 2 else "i", 55, 0.25) for k in range(9)]
    song = segment_of(*tune)
    whole = sing(bank, song).wave.samples[0]
    alone = [sing(bank, replace(segment_of(one), offset=0.0)).wave.samples[0][round(0.4 * RATE) :] for one in tune]
    size = round(0.25 * RATE)
    cut = torch.cat([whole[: round(0.4 * RATE)], *(x[:size] for x in alone), whole[round((0.4 + 9 * 0.25) * RATE) :]])

    def at_joins(x: Tensor) -> float:
        flux = spectral_flux(x)
        places = [round((0.4 + 0.25 * k) * RATE / 64) for k in range(1, 9)]
        return sum(float(flux[place - 3 : place + 3].max()) for place in places) / len(places)

    assert at_joins(whole) < 0.7 * at_joins(cut)


def test_a_long_vowel_stays_as_loud(bank: Voicebank) -> None:
    """Longer than the recording by far: played there and back, without a hole where it turns."""
    made = sing(bank, segment_of(("a", 57, 4.0)))
    x = made.wave.samples[0][round(0.5 * RATE) : round(4.3 * RATE)]
    loud = x.unfold(0, 800, 800).square().mean(1).sqrt()
    assert float(loud.min()) > 0.7 * float(loud.max())


def test_vowels_sound_as_themselves(bank: Voicebank) -> None:
    """The spectrum of each sung vowel is nearest to that of its own recording."""
    song = segment_of(("a", 52, 0.5), ("i", 52, 0.5), ("sa", 52, 0.6))
    made = sing(bank, song)
    starts = list(accumulate(made.segment.durations, initial=0.0))

    def envelope(x: Tensor) -> Tensor:
        return torch.stft(x, 512, 128, window=torch.hann_window(512), return_complex=True).abs().mean(1).log()

    shapes = {name: torch.from_numpy(bank[(name,)].amplitude[40:80].mean(0)).float() for name in ("a", "i")}
    for phone, start in zip(made.segment.phones, starts, strict=False):
        if phone in shapes:
            x = made.wave.samples[0][round((start + 0.1) * RATE) : round((start + 0.35) * RATE)]
            mine = envelope(x)
            other = {
                name: torch.nn.functional.interpolate(shape.log()[None, None], 257)[0, 0]
                for name, shape in shapes.items()
            }
            scores = {name: float(torch.corrcoef(torch.stack([mine, one]))[0, 1]) for name, one in other.items()}
            assert max(scores, key=scores.__getitem__) == phone


def test_the_same_score_is_the_same_sound(bank: Voicebank, song: Segment, tmp_path: Path) -> None:
    write_bank(tmp_path)
    again = sing(Voicebank.of(read_voicebank(tmp_path), RATE), song)
    assert torch.equal(sing(bank, song).wave.samples, again.wave.samples)


def test_no_vibrato_and_no_glide_is_a_staircase(bank: Voicebank) -> None:
    song = segment_of(("a", 57, 0.5), ("i", 59, 0.5))
    made = sing(bank, song, Manner(portamento=0.0, vibrato_cents=0.0))
    hertz = {round(hz, 6) for hz in made.segment.f0 if hz > 0}
    assert hertz == {round(pitch.midi_to_hz(57), 6), round(pitch.midi_to_hz(59), 6)}
    glide = {round(hz, 6) for hz in sing(bank, song).segment.f0 if hz > 0}
    assert len(glide) > 10


def test_units_are_syllables_and_silences() -> None:
    assert [unit.phones for unit in units(("SP", "s", "a", "N", "cl", "i"))] == [(), ("s", "a"), ("N",), (), ("i",)]
    for phones in (("s",), ("s", "SP"), ("a", "k", "SP", "a")):
        with pytest.raises(InputError, match="has no vowel after it"):
            units(phones)


def test_what_cannot_be_sung_is_said(bank: Voicebank) -> None:
    with pytest.raises(InputError, match="no syllable 'k a'"):
        sing(bank, segment_of(("ka", 57, 0.5)))
    with pytest.raises(InputError, match="has no notes"):
        sing(bank, Segment(("SP", "a"), (0.2, 0.3)))


def test_a_bank_without_a_vowel_is_refused(tmp_path: Path) -> None:
    write_bank(tmp_path)
    lines = (
        (tmp_path / "oto.ini")
        .read_text(encoding="cp932")
        .replace("a.wav=a,200.0,130.0,-800.0", "a.wav=a,200.0,130.0,-150.0")
    )
    (tmp_path / "oto.ini").write_text(lines, encoding="cp932")
    with pytest.raises(InputError, match="leave no vowel"):
        Voicebank.of(read_voicebank(tmp_path), RATE)[("a",)]
