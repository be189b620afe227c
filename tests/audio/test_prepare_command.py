"""`prepare`: recordings in, a data set out that training and the field's tools can read."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from degauss.audio import preparation
from degauss.audio.acoustic_data import read_entries
from degauss.audio.alignment import Interval
from degauss.audio.lint import lint
from degauss.audio.pitch import cents, note_to_hz
from degauss.audio.preparation import Noted, Recording, Sampled, Settings, labelled, prepare, prepare_one, with_notes
from degauss.audio.score import Segment, read_ds
from degauss.audio.transcription import read_textgrid, read_transcriptions
from degauss.audio.waves import Wave, mono, read, resample, write
from degauss.core.errors import InputError

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs the program flite")
LABELS = "0.0 0.1 pau\n0.1 0.5 a\n0.5 0.55 k\n0.55 0.95 i\n0.95 1.0 pau\n"


@pytest.fixture
def songs(here: Path, speech: torch.Tensor) -> Path:
    """A folder with two labelled recordings of the same sung second, at two rates, one in stereo."""
    folder = here / "songs"
    write(folder / "one.wav", Wave(speech[None], 16000))
    write(folder / "two.wav", resample(Wave(speech.repeat(2, 1), 16000), 22050))
    for name in ("one", "two"):
        (folder / f"{name}.lab").write_text(LABELS)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_labelled_singing_becomes_a_data_set(songs: Path, invoke: Run, speech_f0: torch.Tensor):
    status, out, error = invoke(["prepare", songs, "--kind", "singing", "--voice", "ann", "--out", "set"])
    assert (status, error) == (0, "")
    assert "2 of 2 recordings prepared, 0 refused" in out
    entries = read_transcriptions("set/transcriptions.csv")
    assert [(entry.name, entry.voice) for entry in entries] == [("one", "ann"), ("two", "ann")]
    for entry in entries:
        segment = entry.segment
        assert segment.phones == ("SP", "a", "k", "i", "SP")
        assert segment.durations == pytest.approx((0.1, 0.4, 0.05, 0.4, 0.05))
        assert segment.phones_per_word == (1, 2, 1, 1)
        assert segment.note_durations == pytest.approx((0.1, 0.45, 0.4, 0.05))
        assert (segment.notes[0], segment.notes[3]) == ("rest", "rest")
        for note, (start, end) in zip(segment.notes[1:3], ((0.1, 0.5), (0.55, 0.95)), strict=True):
            true = float(speech_f0[int(start * 16000) : int(end * 16000)].median())
            assert abs(cents(note_to_hz(note), true)) < 15
        wave = read(f"set/wavs/{entry.name}.wav")
        assert (wave.rate, len(wave.samples), wave.duration) == (16000, 1, pytest.approx(1.0, abs=1e-3))
        (scored,) = read_ds(f"set/ds/{entry.name}.ds")
        assert replace(scored, f0=(), f0_step=0.005, text="") == segment
        assert lint([scored]) == []
        assert cents(scored.f0[100], float(speech_f0[8000])) == pytest.approx(0, abs=15)
        assert [w.word for w in read_textgrid(f"set/TextGrid/{entry.name}.TextGrid")] == ["SP", "a", "k i", "SP"]
    assert [entry.segment for entry in read_entries(Path("set"))] == [entry.segment for entry in entries]
    about = json.loads(Path("set/prepare.json").read_text())
    assert (about["recordings"], about["refused"], about["settings"]["kind"]) == (2, {}, "singing")


def test_a_run_that_is_killed_goes_on_to_the_same_end(songs: Path, invoke: Run, monkeypatch: pytest.MonkeyPatch):
    invoke(["prepare", songs, "--out", "whole"])
    real = preparation.prepare_one

    def killed(recording: Recording, settings: Settings):
        if recording.name == "two":
            raise KeyboardInterrupt
        return real(recording, settings)

    monkeypatch.setattr(preparation, "prepare_one", killed)
    assert invoke(["prepare", songs, "--out", "part"])[0] == 130
    assert [entry.name for entry in read_transcriptions("part/transcriptions.csv")] == ["one"]
    monkeypatch.setattr(preparation, "prepare_one", real)
    assert "1 of 2 recordings prepared, 1 were there, 0 refused" in invoke(["prepare", songs, "--out", "part"])[1]
    whole, part = files(Path("whole")), files(Path("part"))
    assert whole.keys() == part.keys()
    assert all(whole[name] == part[name] for name in whole if name != "prepare.json")
    before = files(Path("part/wavs"))
    assert "0 of 2 recordings prepared, 2 were there" in invoke(["prepare", songs, "--out", "part"])[1]
    assert files(Path("part/wavs")) == before


def test_what_cannot_be_used_is_refused_by_name_and_the_rest_is_prepared(songs: Path, invoke: Run):
    write(songs / "silent.wav", Wave(torch.zeros(1, 16000), 16000))
    shutil.copy(songs / "one.wav", songs / "alone.wav")
    shutil.copy(songs / "one.wav", songs / "gibberish.wav")
    shutil.copy(songs / "one.wav", songs / "late.wav")
    (songs / "broken.wav").write_bytes(b"RIFF")
    (songs / "silent.txt").write_text("seven")
    (songs / "broken.txt").write_text("seven")
    (songs / "gibberish.txt").write_text("xqzt")
    (songs / "late.lab").write_text(LABELS + "1.0 2.0 a\n")
    status, out, _ = invoke(["prepare", songs, "--out", "set"])
    assert status == 0
    assert "2 of 7 recordings prepared, 5 refused" in out
    refused = json.loads(Path("set/prepare.json").read_text())["refused"]
    expected = {
        "alone": "has no text beside it; expected alone.txt",
        "broken": "broken.wav: is not sound of a known kind",
        "gibberish": "has no word 'xqzt'",
        "late": "its phones end at 2.00 s, but the sound at 1.00 s",
        "silent": "silent.wav: is silent",
    }
    assert refused.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in refused[name]
        assert refused[name].count("\n") == 0
    assert {path.stem for path in Path("set/wavs").iterdir()} == {"one", "two"}


def test_nothing_is_written_where_nothing_can_be_used(here: Path, refused: Refused):
    write("none/x.wav", Wave(torch.zeros(1, 16000), 16000))
    Path("none/x.txt").write_text("seven")
    assert "none of the 1 recordings can be used; the first is x: none/x.wav: is silent" in refused(["prepare", "none"])


def test_a_data_set_is_not_mixed_with_others(songs: Path, invoke: Run, refused: Refused):
    invoke(["prepare", songs, "--out", "set"])
    assert "set: was made with" in refused(["prepare", songs, "--out", "set", "--rate", "8000"])
    assert "songs: is where the recordings are" in refused(["prepare", "songs", "--out", "songs"])
    Path("other").mkdir()
    Path("other/mine.txt").write_text("mine")
    assert "other: holds other things than a data set" in refused(["prepare", songs, "--out", "other"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["none"], "none: is no folder"),
        (["empty"], "empty: holds no recording; expected metadata.csv, oto.ini, or sound files"),
        (["songs/one.lab"], "songs/one.lab: is a file; expected a folder of recordings (or --flite VOICE)."),
        (["songs", "--rate", "100"], "rate must be between 8000 and 192000 Hz"),
        (["songs", "--high", "90"], "high must be between 100.0 and 4000.0 Hz"),
        (["bad"], "line 1: 'no bars here'; expected id|raw|normalised"),
        (["twice"], "two recordings are called 'a'; expected each name once"),
    ],
)
def test_bad_input_is_one_sentence(songs: Path, refused: Refused, words, complaint):
    Path("empty").mkdir()
    for folder, table in (("bad", "no bars here\n"), ("twice", "a|one\na|two\n")):
        Path(folder).mkdir()
        Path(folder, "metadata.csv").write_text(table)
    assert complaint in refused(["prepare", *words])


def test_real_digits_in_the_layout_of_ljspeech(here: Path, invoke: Run, digits):
    chosen = [one for one in digits if one.held_out and one.take == 0 and one.digit in (3, 7)][:4]
    names = {3: "3", 7: "seven"}
    Path("lj/wavs").mkdir(parents=True)
    for one in chosen:
        shutil.copy(one.path, Path("lj/wavs") / one.path.name)
    Path("lj/metadata.csv").write_text("".join(f"{d.path.stem}|{d.digit}|{names[d.digit]}\n" for d in chosen))
    assert "4 of 4 recordings prepared" in invoke(["prepare", "lj", "--out", "set"])[1]
    for entry, one in zip(read_transcriptions("set/transcriptions.csv"), chosen, strict=True):
        said = " ".join(phone for phone in entry.segment.phones if phone != "SP")
        assert said == {3: "th r iy", 7: "s eh v ah n"}[one.digit]
        assert math.fsum(entry.segment.durations) == pytest.approx(read(one.path).duration, abs=1e-3)
        assert sum(entry.segment.phones_per_word) == len(entry.segment.phones)
        assert read(f"set/wavs/{entry.name}.wav").rate == 16000


def test_folders_are_voices(songs: Path, invoke: Run):
    for voice in ("ann", "bob"):
        shutil.copytree(songs, Path("voices") / voice)
    invoke(["prepare", "voices", "--out", "set"])
    found = {(entry.name, entry.voice) for entry in read_transcriptions("set/transcriptions.csv")}
    assert found == {(f"{voice}_{name}", voice) for voice in ("ann", "bob") for name in ("one", "two")}


# --- flite --------------------------------------------------------------------------------------------------


@needs_flite
def test_flite_makes_a_corpus_of_several_voices(here: Path, invoke: Run, refused: Refused):
    Path("said.txt").write_text("seven three one\nq7|The boy, who was there.\n")
    for voice in ("slt", "kal16"):
        assert invoke(["prepare", "said.txt", "--flite", voice, "--out", "set"])[0] == 0
    entries = read_transcriptions("set/transcriptions.csv")
    assert [(entry.name, entry.voice) for entry in entries] == [
        ("slt_00001", "slt"), ("slt_q7", "slt"), ("kal16_00001", "kal16"), ("kal16_q7", "kal16"),
    ]  # fmt: skip
    for entry in entries:
        assert math.fsum(entry.segment.durations) == pytest.approx(
            read(f"set/wavs/{entry.name}.wav").duration, abs=1e-3
        )
    said = "SP s eh v ah n th r iy w ah n SP"
    assert " ".join(entries[0].segment.phones) == said
    assert entries[1].segment.phones.count("SP") == 3  # at the comma too
    assert "flite has no voice 'sltt' (did you mean 'slt'?)" in refused(["prepare", "said.txt", "--flite", "sltt"])
    assert "none.txt does not exist" in refused(["prepare", "none.txt", "--flite", "slt"])
    Path("empty.txt").write_text("\n")
    assert "empty.txt: is empty" in refused(["prepare", "empty.txt", "--flite", "slt"])


def test_without_flite_that_is_said(here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    preparation.flite_voices.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    Path("said.txt").write_text("seven")
    assert "the program flite is not installed" in refused(["prepare", "said.txt", "--flite", "slt"])
    preparation.flite_voices.cache_clear()


# --- voicebank ----------------------------------------------------------------------------------------------


def test_syllables_of_a_voicebank_are_timed_and_pitched(voicebank):
    settings = Settings(kind="singing", rate=16000)
    for romaji, phones in (("ka", "SP k a SP"), ("sha", "SP sh a SP"), ("o", "SP o SP"), ("n", "SP N SP")):
        syllable = next(one for one in voicebank if one.romaji == romaji)
        made = prepare_one(Recording(romaji, "e", Sampled(syllable)), settings)
        assert " ".join(made.entry.segment.phones) == phones
        assert math.fsum(made.entry.segment.durations) == pytest.approx(made.wave.duration, abs=1e-3)
        times = [phone for word in made.words for phone in word.phones]
        vowel = times[-2]
        assert vowel.start == pytest.approx(syllable.oto.offset + syllable.oto.preutterance * (len(phones.split()) > 3))
        (note,) = (name for name in made.entry.segment.notes if name != "rest")
        assert abs(cents(note_to_hz(note), syllable.table.mean)) < 60  # UTAU's own measure of the recording


# --- parts --------------------------------------------------------------------------------------------------


def test_labels_are_closed_to_the_length_of_the_sound():
    sounds = [Interval("k", 0.2, 0.3), Interval("a", 0.3, 0.6), Interval("SP", 0.6, 0.7), Interval("i", 0.9, 1.0)]
    words = labelled(sounds, 1.01, "x")
    flat = [(p.phone, pytest.approx(p.start), pytest.approx(p.end)) for word in words for p in word.phones]
    assert flat == [("SP", 0, 0.2), ("k", 0.2, 0.3), ("a", 0.3, 0.6), ("SP", 0.6, 0.9), ("i", 0.9, 1.01)]
    assert [word.word for word in words] == ["SP", "k a", "SP", "i"]
    with pytest.raises(InputError, match=r"x: 'a' at 0.10 s begins before the phone before it ends"):
        labelled([Interval("k", 0.0, 0.3), Interval("a", 0.1, 0.6)], 1.0, "x")


def test_notes_survive_octave_errors_and_unvoiced_vowels():
    pitch = torch.full((300,), 220.0)
    pitch[200:] = 330.0
    pitch[10::25] = 440.0  # the estimator slips now and then
    segment = Segment(("SP", "k", "a", "s", "u", "SP", "i"), (0.1, 0.05, 0.35, 0.1, 0.3, 0.1, 0.5))
    unvoiced = pitch.clone()
    unvoiced[120:180] = 0
    found = with_notes(segment, unvoiced, 0.005)
    assert found.notes == ("rest", "A3", "A3", "rest", "E4+2")
    assert found.phones_per_word == (2, 2, 1, 1, 1)
    assert math.fsum(found.note_durations) == pytest.approx(1.5)
    with pytest.raises(InputError, match="no vowel has a pitch"):
        with_notes(segment, torch.zeros(300), 0.005)


def test_a_name_that_would_leave_the_folder_is_refused(here: Path, songs: Path):
    source = Noted(songs / "one.wav", songs / "one.lab")
    with pytest.raises(InputError, match=r"'../x' cannot be the name of a file"):
        prepare([Recording("../x", "v", source)], "set")
    assert not Path("set").exists()
    assert mono(source.read()[0]).ndim == 1
