"""From text or notes to sound: what is given is kept, what is missing is filled in, and the report tells the truth."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Facts, Range, Statistics
from degauss.audio.score import Segment
from degauss.audio.spectra import MelConfig
from degauss.audio.synthesis import Sampling, batch_of, check_song, from_text, render, sing, transposed
from degauss.core.errors import InputError

MEL = MelConfig(n_fft=512, n_mels=10)
SONG = Segment(
    phones=("SP", "s", "aa", "SP"),
    phones_per_word=(2, 1, 1),
    notes=("rest", "A3", "C4", "rest"),
    note_durations=(0.2, 0.4, 0.4, 0.2),
    slurs=(0, 0, 1, 0),
    offset=0.5,
)


@dataclass(frozen=True)
class Hum:
    """A vocoder whose sound tells what it was given: the mean of each frame, held for a hop."""

    config: MelConfig = field(default_factory=lambda: MEL)
    loudness: float = 1e-3

    def __call__(self, mel: Tensor, f0: Tensor, /) -> Tensor:
        assert mel.shape == (10, len(f0))
        return (mel.mean(0) * self.loudness)[:-1].repeat_interleave(self.config.hop)


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    phones = ("SP", "aa", "ah", "ay", "eh", "ey", "iy", "n", "s", "t", "v")
    config = AcousticConfig(phones, ("ann", "bob"), MEL, hidden=16, blocks=1, channels=8, layers=2)
    facts = Facts(sings=True, ranges={"ann": Range(55, 64), "bob": Range(48, 57)})
    made = AcousticModel.new(
        config, Statistics(torch.full((10,), -9.0), torch.ones(10), torch.tensor([60.0, 50.0])), facts
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(made.network.wavenet.output_projection.weight, std=0.2)
    # Phones of about ten frames, and a voice everywhere.
    made.network.frontend.duration.out.bias.data.fill_(math.log(11))
    made.network.frontend.pitch_predictor.out.bias.data = torch.tensor([0.0, 5.0])
    made.network.eval().requires_grad_(False)
    return made


# --- what is missing ---


def test_durations_that_are_given_are_kept(model):
    segment = Segment(("SP", "aa", "SP"), (0.1, 0.5, 0.2))
    batch, said = batch_of(model, segment, "ann")
    assert said.durations == segment.durations
    # Frames 0 to 6 | to 37 (0.6 s x 62.5 = 37.5, to even 38) | to the 51 of 0.8 s.
    assert torch.cumsum(batch.durations[0], 0).tolist() == [6, 38, 51]


def test_durations_are_predicted_and_follow_the_speed(model):
    segment = from_text("seven")
    batch, said = batch_of(model, segment, "ann")
    assert said.phones == ("SP", "s", "eh", "v", "ah", "n", "SP")
    assert all(duration >= 0.016 for duration in said.durations)
    twice = batch_of(model, segment, "ann", rate=2.0)[1]
    assert math.fsum(twice.durations) == pytest.approx(math.fsum(said.durations) / 2)
    assert batch.f0.shape[1] == int(batch.durations.sum())


def test_a_song_lasts_as_long_as_its_notes(model):
    batch, said = batch_of(model, SONG, "ann", rate=2.0)
    assert math.fsum(said.durations[:2]) == pytest.approx(0.2)
    assert said.durations[2] == pytest.approx(0.8)
    assert said.durations[3] == pytest.approx(0.2)
    assert batch.melody[0, 30] == 57
    assert batch.melody[0, 50] == 60


def test_f0_that_is_given_is_kept(model):
    gap = Segment(("SP", "aa"), (0.2, 0.4), f0=(0.0,) * 40 + (220.0,) * 80)
    f0 = batch_of(model, gap, "ann")[0].f0[0]
    assert not bool(f0[:12].any())
    torch.testing.assert_close(f0[14:], torch.full_like(f0[14:], 220.0))
    # Without a gap the model says where there is a voice.
    silent = replace(model, network=model.network)
    bias = silent.network.frontend.pitch_predictor.out.bias
    kept = bias.data.clone()
    bias.data = torch.tensor([0.0, -50.0])
    try:
        assert not bool(batch_of(model, replace(gap, f0=(220.0,) * 120), "ann")[0].f0.any())
        assert bool(batch_of(model, gap, "ann")[0].f0.any())
    finally:
        bias.data = kept


# --- rendering ---


def test_a_rendering_and_its_report(model):
    segment = Segment(("SP", "aa", "SP"), (0.1, 0.5, 0.2), text="ah")
    told: list[tuple[int, int]] = []
    made = render(
        model, segment, Hum(), Sampling("ddim", 5, 0.4, seed=2), voice="bob", report=lambda *counts: told.append(counts)
    )
    assert made.wave.rate == 16000
    assert made.wave.samples.shape == (1, 256 * 50)
    assert made.mel.shape == (10, 51)
    about = json.loads(json.dumps(made.report))
    expected = {
        "voice": "bob", "text": "ah", "phones": ["SP", "aa", "SP"], "durations": [0.1, 0.5, 0.2], "seed": 2,
        "sample": 0, "solver": "ddim", "steps": 5, "evaluations": 5, "K": 40.0, "T": 100, "duration": 0.8,
    }  # fmt: skip
    assert {name: about[name] for name in expected} == expected
    assert about["real_time_factor"] == pytest.approx(about["seconds"] / 0.8)
    assert 0 < about["acoustic_seconds"] <= about["seconds"]
    assert told == [(k, 5) for k in range(1, 6)]


def test_a_rendering_follows_from_its_seed(model):
    segment = Segment(("SP", "aa"), (0.1, 0.3))
    sounds = [
        render(model, segment, Hum(), Sampling(seed=seed), voice="ann", sample=sample).wave.samples
        for seed, sample in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert torch.equal(sounds[0], sounds[1])
    assert not torch.equal(sounds[0], sounds[2])
    assert not torch.equal(sounds[0], sounds[3])


def test_what_the_checkpoint_says_and_what_is_asked(model):
    taught = replace(model, facts=replace(model.facts, boundary=0.2, solver="ancestral", steps=4))
    segment = Segment(("SP", "aa"), (0.1, 0.3))
    about = render(taught, segment, Hum(), voice="ann").report
    assert (about["solver"], about["steps"], about["K"]) == ("ancestral", 4, 20.0)
    about = render(taught, segment, Hum(), Sampling("unipc", 3, lambda c, a: 0.5), voice="ann").report
    assert (about["solver"], about["evaluations"], about["K"]) == ("unipc", 3, 50.0)
    about = render(model, segment, Hum(), voice="ann").report
    assert (about["solver"], about["steps"], about["K"]) == ("dpmpp", 12, 60.0)


def test_k_of_0_asks_the_denoiser_nothing(model):
    about = render(model, Segment(("aa",), (0.3,)), Hum(), Sampling(boundary=0.0), voice="ann").report
    assert (about["evaluations"], about["steps"], about["K"]) == (0, 0, 0)


def test_nothing_is_clipped(model):
    made = render(model, Segment(("aa",), (0.3,)), Hum(loudness=5.0), voice="ann")
    assert float(made.wave.samples.abs().max()) == pytest.approx(0.999)


# --- songs ---


def test_segments_lie_at_their_times(model):
    again = replace(SONG, offset=2.0)
    song = sing(model, [SONG, again], Hum(), voice="ann")
    samples = song.wave.samples[0]
    assert song.wave.duration == pytest.approx(2.0 + 1.2, abs=0.02)
    assert not bool(samples[: 16000 // 2].any())
    first = render(model, SONG, Hum(), voice="ann", sample=0).wave.samples[0]
    assert torch.equal(samples[8000 : 8000 + len(first)], first)
    second = render(model, again, Hum(), voice="ann", sample=1).wave.samples[0]
    assert torch.equal(samples[32000 : 32000 + len(second)], second)
    assert len(song.f0) == MEL.frames(len(samples))
    assert song.report["evaluations"] == 24
    assert [part["offset"] for part in song.report["segments"]] == [0.5, 2.0]


def test_transposed():
    higher = transposed(replace(SONG, f0=(220.0, 0.0)), 12)
    assert higher.notes == ("rest", "A4", "C5", "rest")
    assert higher.f0 == (440.0, 0.0)


# --- what cannot be ---


def test_songs_that_a_voice_cannot_sing(model):
    check_song(model, "ann", [SONG], "song.ds")
    high = replace(SONG, notes=("rest", "A3", "C6", "rest"))
    with pytest.raises(
        InputError, match=r"song.ds: segment 1, note_seq place 3 .*C6 is out of range; expected F3 to F#4"
    ):
        check_song(model, "ann", [high], "song.ds")
    with pytest.raises(InputError, match=r"ph_seq place 2.*no phone 'zz'"):
        check_song(model, "ann", [replace(SONG, phones=("SP", "zz", "aa", "SP"))], "song.ds")
    disagree = replace(SONG, durations=(0.2, 0.2, 0.8, 0.2))
    with pytest.raises(InputError, match=r"the notes last 1.200 s, but the phones 1.400 s"):
        check_song(model, "ann", [disagree], "song.ds")
    spoken = replace(model, facts=Facts())
    with pytest.raises(InputError, match="has notes, but the model was trained on speech"):
        check_song(spoken, "ann", [SONG], "song.ds")
    long = replace(SONG, note_durations=(0.2, 200.0, 0.4, 0.2))
    with pytest.raises(InputError, match="segment 1 lasts 201 s; expected at most 120 s in one breath"):
        check_song(model, "ann", [long], "song.ds")


def test_what_cannot_be_rendered(model):
    segment = Segment(("aa",), (0.3,))
    with pytest.raises(InputError, match="no voice 'zoe'"):
        render(model, segment, Hum(), voice="zoe")
    with pytest.raises(InputError, match="phone 1 of 1 is 'zh'"):
        render(model, Segment(("zh",), (0.3,)), Hum(), voice="ann")
    with pytest.raises(InputError, match="the vocoder takes other mel spectra"):
        render(model, segment, Hum(MelConfig()), voice="ann")
    with pytest.raises(InputError, match="solver must be one of"):
        render(model, segment, Hum(), Sampling("euler"), voice="ann")
    with pytest.raises(InputError, match="rate must be between"):
        Sampling(rate=9.0)
    with pytest.raises(InputError, match="samples that are not finite"):
        render(model, segment, Hum(loudness=math.inf), voice="ann")
    with pytest.raises(InputError, match="at least one segment"):
        sing(model, [], Hum(), voice="ann")
