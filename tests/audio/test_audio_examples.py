"""The examples do what they say, and the scripts that train the shipped voices make the corpora they promise."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from degauss.audio.acoustic import AcousticConfig, AcousticModel, Facts, Range, Statistics
from degauss.audio.acoustic_data import read_corpus
from degauss.audio.datasets import Digit, Syllable
from degauss.audio.framing import f0_on_frames
from degauss.audio.lint import lint
from degauss.audio.lyrics import japanese, sung
from degauss.audio.phones import ARPABET, read_text
from degauss.audio.pitch import cents, f0
from degauss.audio.preparation import Settings, prepare
from degauss.audio.score import Segment, note_pitch, read_ds
from degauss.audio.spectra import MelConfig
from degauss.audio.voicebank_songs import Voicebank
from degauss.audio.waves import mono, read
from degauss.core.errors import InputError

# --- a recording ----------------------------------------------------------------------------------------------


def test_a_recording_is_cleaned(started: Callable[..., str]) -> None:
    """By the model that ships: noise goes, and the picture shows both spectra."""
    said = started("clean_recording")
    assert "wrote cleaned/clean.wav" in said
    noisy, clean = (mono(read(f"cleaned/{name}.wav")) for name in ("noisy", "clean"))
    assert len(noisy) == len(clean) == 48000
    assert float(clean.square().mean()) < float(noisy.square().mean())
    assert Path("cleaned/spectra.png").stat().st_size > 10_000


# --- a song, a voice ------------------------------------------------------------------------------------------


def test_without_a_model_one_sentence(started: Callable[..., str]) -> None:
    said = started("sing_a_song", "--checkpoint", "none")
    assert said.count("\n") == 1
    assert said.startswith("none: no model there")
    assert not Path("song.wav").exists()


def test_a_wrong_syllable_is_said_at_once(
    started: Callable[..., str], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        started("sing_a_song", "--toy", "4", "--syllables", "ra q")
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "'q' is not a Japanese syllable in kana or romaji (at 'q').\n")
    assert not list(here.iterdir())


@pytest.mark.slow  # trains
def test_a_toy_sings(started: Callable[..., str]) -> None:
    said = started("sing_a_song", "--toy", "4", "--steps", "2")
    assert "sung on aa iy eh ow uw" in said
    wave = read("song.wav")
    assert wave.duration == pytest.approx(0.5 + 16 * 0.5 + 0.3, abs=0.05)
    assert Path("song.png").stat().st_size > 10_000
    assert len(read_ds("song.ds")[0].notes) == 16


@pytest.mark.slow  # trains
def test_a_folder_becomes_a_voice(started: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    said = started("own_voice", "--steps", "3")
    assert "24 recordings prepared" in said
    assert 0.05 < read("own/spoken.wav").duration < 20
    assert AcousticModel.load("own/run/model").config.phones == ("SP", "aa", "eh", "iy", "ow", "uw")
    # The same folder as a user's own: what is there already is not prepared again.
    with pytest.raises(SystemExit) as stop:
        started("own_voice", "own/recordings", "--text", "hello", "--steps", "3")
    assert stop.value.code == 2
    assert "needs the phones ah hh l" in capsys.readouterr().err


def test_a_melody_keeps_its_notes_on_other_syllables(example: Callable[[str], ModuleType]) -> None:
    song = example("sing_a_song")
    theirs = Segment(
        ("AP", "t", "ian", "SP", "b", "ai"), (), (1, 2, 1, 2),
        ("rest", "D4", "E4", "rest", "F#4"), (0.4, 0.5, 0.5, 0.3, 1.0), (0, 0, 1, 0, 0), offset=2.0,
    )  # fmt: skip
    notes = list(song.melody(theirs))
    assert [(round(note.start, 6), note.pitch, note.lyric) for note in notes] == [
        (2.4, 62.0, "la"), (2.9, 64.0, "-"), (3.7, 66.0, "la"),
    ]  # fmt: skip
    (ours,) = song.on_syllables(notes, ["ra", "so"])
    assert ours.phones == ("SP", "r", "a", "SP", "s", "o", "SP")
    assert [name for name in ours.notes if name != "rest"] == ["D4", "E4", "F#4"]
    assert sum(ours.slurs) == 1
    assert lint([ours]) == []


def voice_from(low: float, high: float) -> AcousticModel:
    mel = MelConfig(8000, 512, 128, 20, 0.0, 4000.0)
    config = AcousticConfig(("SP", "a"), ("someone",), mel, hidden=16, blocks=1, channels=8, layers=1)
    statistics = Statistics(torch.full((20,), -9.0), torch.zeros(20), torch.full((1,), 60.0))
    return AcousticModel.new(config, statistics, Facts(True, {"someone": Range(low, high)}))


@pytest.mark.parametrize(
    ("low", "high", "moved"),
    [(58, 72, 0), (46, 60, -12), (70, 84, 12), (52, 63, -7)],  # an octave where that fits, else semitones
)
def test_a_song_moves_to_where_the_voice_is(
    example: Callable[[str], ModuleType], low: float, high: float, moved: int
) -> None:
    song = example("sing_a_song")
    score = song.on_syllables(song.tune(), ["ra"])
    found = song.at_home(voice_from(low, high), "someone", score)
    assert note_pitch(found[0].notes[1]) == 60 + moved
    pitches = [pitch for name in found[0].notes if (pitch := note_pitch(name)) is not None]
    assert low <= min(pitches)
    assert max(pitches) <= high


# --- the speech corpus ----------------------------------------------------------------------------------------


def test_sentences_have_every_phone_and_no_unknown_word(examples: Path) -> None:
    lines = (examples / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) >= 150
    phones = Counter(phone for line in lines for word in read_text(line) for phone in word.phones)
    assert min(phones[phone] for phone in ARPABET) >= 10


def test_strings_say_every_take_once_and_none_that_is_kept_out(
    example: Callable[[str], ModuleType], digits: list[Digit]
) -> None:
    script = example("train_shipped_speech")
    kept, trained = (script.spoken_digits(held_out) for held_out in (True, False))
    takes = [take for one in (*kept, *trained) for take in one.source.takes]
    assert len(takes) == len(set(takes)) == len(digits)
    assert all(take.held_out for one in kept for take in one.source.takes)
    assert not any(take.held_out for one in trained for take in one.source.takes)
    assert all(take.speaker == one.voice for one in trained for take in one.source.takes)
    assert {len(one.source.takes) for one in trained} == {1, 2, 3, 4}
    assert [one.source for one in trained] == [one.source for one in script.spoken_digits(False)]


def test_a_string_is_aligned_and_as_loud_as_the_others(
    example: Callable[[str], ModuleType], digits: list[Digit], tmp_path: Path
) -> None:
    script = example("train_shipped_speech")
    own = [take for take in digits if take.speaker == "theo" and not take.held_out]
    paused, joined = list(script.strings(own, seed=0))[:2]
    wave, words = paused.read()
    assert [word.word for word in words if word.word != "SP"] == list(paused.words)
    assert sum(word.word == "SP" for word in words) >= len(paused.words)  # at least between them and at the end
    assert min(paused.gaps) >= 0.08 > 0.03 >= max(joined.gaps)
    again, _ = paused.read()
    assert torch.equal(wave.samples, again.samples)
    loud = [script.frames_rms(mono(one.read()[0]), 16000) for one in (paused, joined)]
    levels = [float(rms[rms > 0.05 * rms.max()].square().mean().sqrt()) for rms in loud]
    assert levels == pytest.approx([0.08, 0.08], rel=0.1)
    found = prepare(script.spoken_digits(False)[:2], tmp_path / "data", Settings())
    assert (found.written, found.refused) == (2, {})
    assert len(read_corpus(tmp_path / "data").items) == 2


def test_a_loud_sound_is_not_cut(example: Callable[[str], ModuleType]) -> None:
    clicks = torch.zeros(8000)
    clicks[::80] = 1.0
    made = example("train_shipped_speech").levelled(clicks, 8000)
    assert float(made.max()) <= 0.95 + 1e-6
    assert torch.allclose(made, clicks * made.max())


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_says_other_texts_than_those_kept_out(example: Callable[[str], ModuleType]) -> None:
    script = example("train_shipped_speech")
    kept, trained = ({one.name for one in script.spoken_texts(held_out)} for held_out in (True, False))
    assert not kept & trained
    assert len(kept | trained) == 4 * (158 + 60)
    _, words = script.spoken_texts(False)[0].source.read()
    assert words[0].word == "SP"


# --- the singing corpus ---------------------------------------------------------------------------------------


def test_phrases_are_songs_in_range(example: Callable[[str], ModuleType]) -> None:
    script = example("train_shipped_singing")
    syllables = ["a", "ka", "shi", "n", "kyo", "tsu", "me"]
    counts: Counter[str] = Counter()
    for number in range(40):
        notes = script.phrase(number, syllables)
        assert notes == script.phrase(number, syllables)
        assert notes[0].lyric != "-"
        assert all(45 <= note.pitch <= 69 for note in notes)
        assert all(a.end <= b.start for a, b in pairwise(notes))
        assert 5 < notes[-1].end < 10
        segments = sung(notes, japanese)
        assert lint(segments) == []
        counts.update(note.lyric for note in notes)
    assert script.phrase(0, syllables) != script.phrase(1, syllables)
    slurred = counts.pop("-")
    assert 0.03 < slurred / counts.total() < 0.2
    assert set(counts) == set(syllables)
    assert max(counts.values()) < 2 * min(counts.values())


def test_the_corpus_knows_what_it_sings(
    example: Callable[[str], ModuleType], voicebank: list[Syllable], tmp_path: Path
) -> None:
    script = example("train_shipped_singing")
    folder = tmp_path / "data"
    script.write_songs(folder, range(2), Voicebank.of(voicebank))
    corpus = read_corpus(folder)
    assert corpus.sings
    for item in corpus.items:
        # What was sung is known; what is heard agrees with it.
        song = read_ds(folder / "ds" / f"{item.name}.ds")[0]
        assert torch.equal(item.f0, f0_on_frames(song, MelConfig(), len(item.f0)))
        wave = read(folder / "wavs" / f"{item.name}.wav")
        heard = f0(mono(wave), wave.rate, MelConfig().hop)
        both = (item.f0 > 0) & (heard > 0)
        assert heard.shape == item.f0.shape
        assert float(both.double().mean()) > 0.5
        assert float(cents(item.f0, heard)[both].abs().median()) < 10
    before = (folder / "transcriptions.csv").stat().st_mtime_ns
    script.write_songs(folder, range(2), Voicebank.of(voicebank))
    assert (folder / "transcriptions.csv").stat().st_mtime_ns == before


def test_the_songs_it_is_measured_on_are_in_range(example: Callable[[str], ModuleType]) -> None:
    found = dict(example("train_shipped_singing").songs())
    if not found:
        pytest.skip("the .ds songs are not at hand; expected them under DEGAUSS_DATA")
    assert len(found) == 8
    for score in found.values():
        assert lint(score) == []
        assert sum(segment.duration for segment in score) > 10
        assert all(45 <= pitch <= 69 for segment in score for name in segment.notes if (pitch := note_pitch(name)))


# --- shipping -------------------------------------------------------------------------------------------------


def test_shipped_models_are_small(example: Callable[[str], ModuleType]) -> None:
    shipping = example("_shipping")
    config = AcousticConfig(tuple(map(str, range(45))), tuple("abcdefghij"), shipping.MEL, **shipping.SIZES)
    zeros = torch.zeros(80)
    network = AcousticModel.new(config, Statistics(zeros, zeros, torch.zeros(10))).network
    assert sum(weight.numel() for weight in network.parameters()) <= shipping.MOST_PARAMETERS
    assert 4 * sum(weight.numel() for weight in network.state_dict().values()) <= 5_000_000


def test_a_card_says_what_a_model_is_and_install_puts_both_in_place(
    example: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipping = example("_shipping")
    monkeypatch.setattr(shipping, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(shipping, "SHIPPED", tmp_path / "none")
    arguments = shipping.parser("", 30, 70).parse_args([str(tmp_path / "run"), "--install", "--device", "cpu"])
    voice_from(45, 69).save(tmp_path / "run" / "model")
    for stage in ("auxiliary", "diffusion"):
        (tmp_path / "run" / stage).mkdir()
        rows = [{"step": 1, "validation": 9.0}, {"step": 2, "validation": 0.25}, {"step": 3, "loss": 1.0}]
        (tmp_path / "run" / stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = AcousticModel.load(tmp_path / "run" / "model")
    for _ in range(2):  # an older version is replaced
        shipping.finish("speech", arguments, model, ["digits"], "CC BY-SA 4.0", lambda _: {"right": 0.5})
    installed = tmp_path / "weights" / "speech"
    card = json.loads((installed / "card.json").read_text())
    assert card["licence"] == "CC BY-SA 4.0"
    assert card["metrics"]["right"] == 0.5
    assert card["metrics"]["vocoder"] == "World"
    assert card["metrics"]["held_out_losses"] == {"auxiliary validation": 0.25, "diffusion validation": 0.25}
    assert card["command"].startswith("python packages/audio/examples/train_shipped_speech.py OUT --steps 70 ")
    assert AcousticModel.load(installed).config == model.config
    assert not list((tmp_path / "weights").glob(".*"))


def test_scoring_alone_needs_a_model(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    shipping = example("_shipping")
    arguments = shipping.parser("", 30, 70).parse_args([str(tmp_path / "none"), "--score"])
    with pytest.raises(InputError):
        shipping.trained(arguments, None, None)
