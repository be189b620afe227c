"""Pictures: a PNG that shows what it should, where it should, whatever the sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

from degauss.audio import plots
from degauss.audio.plots import sound_picture
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic import glide
from degauss.audio.waves import Wave

CONFIG = MelConfig()


def size(path: Path) -> tuple[int, int]:
    pixels = image.imread(path)
    return pixels.shape[1], pixels.shape[0]


def test_a_picture_is_1200_pixels_wide_and_taller_with_pitch(tmp_path: Path, speech: torch.Tensor):
    wave = Wave(speech[None], 16000)
    sound_picture(tmp_path / "plain.png", wave, CONFIG)
    sound_picture(tmp_path / "new" / "pitch.png", wave, CONFIG, torch.full((63,), 120.0), "A voice")
    plain, pitch = size(tmp_path / "plain.png"), size(tmp_path / "new" / "pitch.png")
    assert plain[0] == pitch[0] == 1200
    assert pitch[1] > plain[1] > 500
    assert [path.name for path in sorted(tmp_path.rglob("*.png"))] == ["pitch.png", "plain.png"]


def test_the_same_sound_gives_the_same_picture_and_another_another(tmp_path: Path, speech: torch.Tensor):
    for name, samples in (("a", speech), ("b", speech), ("c", speech.flip(0))):
        sound_picture(tmp_path / f"{name}.png", Wave(samples[None], 16000), CONFIG)
    a, b, c = (image.imread(tmp_path / f"{name}.png") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert float(np.abs(a - c).max()) > 0.1


@pytest.mark.parametrize(
    ("wave", "frames", "hz"),
    [
        (Wave(torch.zeros(1, 5000), 16000), 20, 0.0),  # silent, without a pitch
        (Wave(torch.full((1, 1), 0.5), 16000), 1, 60.0),  # one sample
        (Wave(torch.rand(2, 44100) - 0.5, 44100), 63, 2000.0),  # stereo, of another rate
    ],
)
def test_any_sound_can_be_drawn(tmp_path: Path, wave: Wave, frames: int, hz: float):
    sound_picture(tmp_path / "x.png", wave, CONFIG, torch.full((frames,), hz))
    assert size(tmp_path / "x.png")[0] == 1200


def test_pitch_of_another_length_is_refused_and_nothing_is_written(tmp_path: Path, speech: torch.Tensor):
    with pytest.raises(ValueError, match="f0 has 62 frames, but the mel spectrum has 63"):
        sound_picture(tmp_path / "x.png", Wave(speech[None], 16000), CONFIG, torch.zeros(62))
    assert list(tmp_path.iterdir()) == []


def test_pitch_is_drawn_on_the_harmonic_it_belongs_to():
    """The band of a frequency is where the spectrum of its sine has its peak."""
    for hz in (150.0, 700.0, 3000.0, 7000.0):
        sine = torch.sin(2 * torch.pi * hz * torch.arange(16000, dtype=torch.float64) / 16000)
        mel = log_mel(sine, CONFIG)
        place = float(plots._band(np.array(hz), CONFIG))
        assert abs(place - int(mel[:, 30].argmax())) <= 0.75
    ends = plots._band(np.array([CONFIG.f_min, CONFIG.f_max]), CONFIG)
    np.testing.assert_allclose(ends, [-1, CONFIG.n_mels], atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(220, 220), (100, 140), (80, 900), (60, 1000), (51, 7900)])
def test_few_notes_stand_beside_any_range(low: float, high: float):
    notes = plots._notes(low, high)
    assert 1 <= len(notes) <= 8
    assert len(set(np.diff(notes))) <= 1


def test_a_long_wave_is_drawn_by_its_extremes(monkeypatch: pytest.MonkeyPatch):
    """A click of one sample in an hour is not lost between two columns."""
    drawn: list[np.ndarray] = []

    class Axes:
        def fill_between(self, x, low, high, **style) -> None:
            drawn[:] = [x, low, high]

        def __getattr__(self, name: str):
            return lambda *words, **options: None

    samples = np.zeros(1_000_000)
    samples[654_321] = 0.7
    plots._draw_wave(Axes(), samples, 1000)  # pyright: ignore[reportArgumentType]
    x, _, high = drawn
    assert len(x) == 2000
    assert x[high.argmax()] == pytest.approx(654.321, abs=0.6)
    assert high.max() == 0.7


def test_a_glide_is_a_straight_line_of_notes():
    """The pitch panel is logarithmic: its ticks are notes, equally far apart."""
    notes = plots._notes(*(float(hz) for hz in glide(110, 440, 10)[[0, -1]]))
    assert notes == [44, 48, 52, 56, 60, 64, 68]
