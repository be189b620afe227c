"""Files of sound: read as they are or refused in one sentence, written without clipping, resampled in place."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings

from degauss.audio.waves import Wave, check_audible, mono, read, resample, write
from degauss.core.errors import InputError


def noise(n: int, channels: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, n)).astype(np.float32))


def sine(hz: float, rate: int, seconds: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(round(rate * seconds), dtype=torch.float64) / rate).float()


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_what_another_program_wrote_is_read(tmp_path: Path, suffix: str):
    levels = np.array([[0, -32768], [16384, 32767], [-1, 1]], dtype=np.int16).repeat(500, axis=0)
    sf.write(tmp_path / f"x.{suffix}", levels, 22050)
    wave = read(tmp_path / f"x.{suffix}")
    assert (wave.rate, tuple(wave.samples.shape), wave.samples.dtype) == (22050, (2, 1500), torch.float32)
    assert wave.duration == 1500 / 22050
    assert wave.samples.is_contiguous()
    if suffix != "ogg":  # which loses some
        np.testing.assert_array_equal(wave.samples.numpy().T * 32768, levels)


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path):
    def complaint(name: str, **wanted: float) -> str:
        with pytest.raises(InputError) as caught:
            read(tmp_path / name, **wanted)  # pyright: ignore[reportArgumentType]
        said = str(caught.value)
        assert said.startswith(str(tmp_path / name))
        assert "; expected" in said
        assert "\n" not in said
        return said

    assert "no such file" in complaint("absent.wav")
    (tmp_path / "folder.wav").mkdir()
    assert "is a folder" in complaint("folder.wav")
    (tmp_path / "nothing.wav").touch()
    assert "is an empty file" in complaint("nothing.wav")
    (tmp_path / "text.wav").write_text("no sound at all, just words")
    assert "is not sound" in complaint("text.wav")
    (tmp_path / "bare.raw").write_bytes(b"\0" * 100)
    assert "is not sound" in complaint("bare.raw")
    sf.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    assert "holds no samples" in complaint("none.wav")
    strange = np.zeros(800)
    strange[400:403] = [np.nan, np.inf, -np.inf]
    sf.write(tmp_path / "strange.wav", strange, 8000, subtype="FLOAT")
    assert "3 of 800 samples are not finite (NaN or infinite), the first at 0.050 s" in complaint("strange.wav")
    sf.write(tmp_path / "three.wav", np.zeros((80, 3)), 8000)
    assert "has 3 channels; expected at most 2" in complaint("three.wav", channels=2)
    assert "expected one" in complaint("three.wav", channels=1)
    assert read(tmp_path / "three.wav", channels=3).samples.shape == (3, 80)
    sf.write(tmp_path / "long.wav", np.zeros(8001), 8000)
    assert "lasts 1.0 s; expected at most 1.0 s" in complaint("long.wav", limit=1.0)
    assert read(tmp_path / "long.wav", limit=1.01).samples.shape == (1, 8001)


def test_a_file_of_two_hours_is_refused_by_its_header_alone(tmp_path: Path):
    path = tmp_path / "long.flac"
    sf.write(path, np.zeros(2 * 3600 * 1000, dtype=np.int16), 1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])  # nothing but the header is left to look at
    with pytest.raises(InputError, match=r"lasts 120\.0 minutes; expected at most 60\.0 minutes"):
        read(path, limit=3600)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path):
    path = tmp_path / "x.flac"
    sf.write(path, noise(40000).T.numpy(), 16000)
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(InputError, match="cut short"):
        read(path)


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24), ("FLOAT", None)])
def test_a_written_wave_is_read_back(tmp_path: Path, subtype: str, bits: int | None):
    wave = Wave(noise(1000, channels=2), 44100)
    write(tmp_path / "new folder" / "x.wav", wave, subtype)
    info = sf.info(tmp_path / "new folder" / "x.wav")
    assert (info.subtype, info.samplerate, info.channels) == (subtype, 44100, 2)
    back = read(tmp_path / "new folder" / "x.wav")
    if bits is None:
        assert torch.equal(back.samples, wave.samples)
    else:  # to the nearest level, neither up nor down
        error = (back.samples - wave.samples).double() * 2 ** (bits - 1)
        assert error.abs().max() <= 0.5 + 1e-6
        assert abs(float(error.mean())) < 0.05


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bits_survive_any_number_of_rounds(tmp_path: Path, suffix: str):
    levels = np.arange(-32768, 32768, dtype=np.int16)
    path = tmp_path / f"x.{suffix}"
    sf.write(path, levels, 8000)
    for _ in range(2):
        write(path, read(path))
    np.testing.assert_array_equal(sf.read(path, dtype="int16")[0], levels)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_peak_above_full_scale_is_scaled_down_with_a_warning(tmp_path: Path, subtype: str):
    samples = noise(1000) * 2
    peak = float(samples.abs().max())
    with pytest.warns(UserWarning, match=r"x\.wav: the peak is 1\.\d+ of full scale; scaled down to 0\.999"):
        write(tmp_path / "x.wav", Wave(samples, 8000), subtype)
    back = read(tmp_path / "x.wav").samples
    assert float(back.abs().max()) == pytest.approx(0.999, abs=2**-15)
    torch.testing.assert_close(back, samples * 0.999 / peak, rtol=0, atol=2**-15)


def test_full_scale_itself_is_left_alone(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "x.wav", Wave(torch.tensor([[1.0, -1.0, 0.5]]), 8000))
    torch.testing.assert_close(
        read(tmp_path / "x.wav").samples, torch.tensor([[1 - 2**-15, -1.0, 0.5]]), rtol=0, atol=0
    )


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    wave = Wave(torch.zeros(1, 10), 8000)
    for name, subtype, complaint in [
        ("x.xyz", "PCM_16", "no sound can be written to '.xyz'"),
        ("x", "PCM_16", "a name without a suffix"),
        ("x.flac", "FLOAT", "FLAC files cannot hold FLOAT"),
        ("x.wav", "PCM_12", "did you mean"),
    ]:
        with pytest.raises(InputError, match=complaint):
            write(tmp_path / name, wave, subtype)
    for samples in (torch.zeros(10), torch.zeros(1, 0), torch.tensor([[0.0, math.nan]])):
        with pytest.raises(ValueError, match=r"samples"):
            write(tmp_path / "x.wav", Wave(samples, 8000))
    assert list(tmp_path.iterdir()) == []


# --- resampling ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    st.sampled_from([8000, 11025, 16000, 24000, 48000]),
)
def test_the_length_is_exact(n: int, old: int, new: int):
    assert resample(Wave(noise(n, 2), old), new).samples.shape == (2, round(n * new / old))


@pytest.mark.parametrize(("old", "new"), [(8000, 16000), (16000, 8000), (44100, 16000), (16000, 44100), (48000, 16000)])
def test_a_tone_stays_the_same_tone_at_the_same_time(old: int, new: int):
    out = resample(Wave(sine(440, old, 1.0)[None], old), new)
    expected = sine(440, new, 1.0)
    inner = slice(new // 10, -new // 10)
    assert float((out.samples[0] - expected)[inner].abs().max()) < 1e-4


def test_what_the_lower_rate_cannot_hold_is_gone():
    out = resample(Wave(sine(7000, 44100, 1.0)[None], 44100), 8000)
    assert float(out.samples[0, 800:-800].abs().max()) < 1e-4


def test_the_same_rate_changes_nothing():
    wave = Wave(noise(100), 16000)
    assert resample(wave, 16000) is wave
    with pytest.raises(ValueError, match="at least 1 Hz"):
        resample(wave, 0)


# --- channels and silence -----------------------------------------------------------------------------------


def test_mono_is_the_mean_of_the_channels():
    assert mono(Wave(torch.tensor([[1.0, 0.0], [0.0, 0.5]]), 8000)).tolist() == [0.5, 0.25]


def test_silence_is_refused_where_asked():
    check_audible(Wave(noise(100) * 1e-3, 8000), "x.wav")
    one_sided = torch.cat([torch.zeros(1, 100), noise(100)])
    check_audible(Wave(one_sided, 8000), "x.wav")
    for silent in (torch.zeros(1, 100), torch.full((1, 100), 0.3), noise(100) * 1e-5):
        with pytest.raises(InputError, match=r"x\.wav: is silent; expected sound above -80 dB of full scale"):
            check_audible(Wave(silent, 8000), "x.wav")
    check_audible(Wave(noise(100) * 1e-5, 8000), "x.wav", floor=-110)
