"""`score-lint`: faults in a table and in JSON, and an exit status that a script can use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from degauss.audio.lyrics import Note
from degauss.audio.midi import write_midi
from degauss.audio.score import Segment, write_ds

GOOD = Segment(
    phones=("SP", "r", "a", "SP"),
    phones_per_word=(2, 1, 1),
    notes=("rest", "C4", "rest"),
    note_durations=(0.4, 0.5, 0.2),
    slurs=(0, 0, 0),
)
BAD = Segment(("SP", "q"), (0.3, 0.1), (1, 2), ("rest", "C9"), (0.3, 0.1), (0, 0), offset=5.0)
Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def song(here: Path) -> Path:
    write_ds(here / "song.ds", [GOOD, BAD])
    return here / "song.ds"


def test_a_good_song_passes(here: Path, invoke: Run):
    write_ds("good.ds", [GOOD])
    assert invoke(["score-lint", "good.ds", "--out", "faults.json"]) == (0, "good.ds: 1 segments, no fault\n", "")
    assert json.loads(Path("faults.json").read_text()) == {"song": "good.ds", "segments": 1, "faults": []}


def test_faults_are_shown_and_written(song: Path, invoke: Run):
    Path("phones.txt").write_text("SP r a")
    words = ["score-lint", "song.ds", "--phones", "phones.txt", "--highest", "C6", "--out", "faults.json"]
    status, out, error = invoke(words)
    assert (status, error) == (1, "")
    assert "song.ds: 3 faults in 1 of 2 segments" in out
    assert "no phone 'q'" in out
    found = json.loads(Path("faults.json").read_text())["faults"]
    assert [(fault["segment"], fault["field"], fault["place"], fault["time"]) for fault in found] == [
        (2, "ph_seq", 2, 5.3),
        (2, "ph_num", None, None),
        (2, "note_seq", 2, 5.3),
    ]


def test_a_checkpoint_says_what_it_can_sing(song: Path, invoke: Run, refused: Refused):
    Path("model").mkdir()
    facts = {"ranges": {"low": [40.0, 50.0], "high": [60.0, 70.0]}}
    about = {"config": {"phones": ["SP", "r", "a", "q"], "voices": ["low", "high"], "facts": facts}}
    Path("model/config.json").write_text(json.dumps(about))
    assert "C9 is out of range; expected D#2 to B4" in " ".join(
        invoke(["score-lint", "song.ds", "--checkpoint", "model"])[1].split()
    )
    out = invoke(["score-lint", "song.ds", "--checkpoint", "model", "--voice", "low"])[1]
    assert "C4 is out of range; expected D#2 to D#3" in " ".join(out.split())
    words = ["score-lint", "song.ds", "--checkpoint", "model", "--voice", "alto"]
    assert refused(words) == "model: has no voice 'alto'; expected one of low, high."
    Path("model/config.json").write_text("{}")
    assert "is not that of an acoustic model" in refused(words)


def test_midi_is_checked_too(here: Path, invoke: Run, refused: Refused):
    write_midi("song.mid", [Note(0.5, 1.0, 60.0, "か"), Note(1.0, 1.5, 62.0)])
    assert invoke(["score-lint", "song.mid"])[0] == 0
    assert invoke(["score-lint", "song.mid", "--highest", "C#4"])[0] == 1
    write_midi("bare.mid", [Note(0.5, 1.0, 60.0)])
    assert "the song has no lyrics" in refused(["score-lint", "bare.mid"])
    assert invoke(["score-lint", "bare.mid", "--lyric", "ra"])[0] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["none.ds"], "none.ds does not exist."),
        (["song.wav"], "song.wav: is no song that can be read; expected a name that ends in .ds"),
        (["song.ds", "--out", "x.txt"], "x.txt: expected the name of a file that ends in .json."),
        (["song.ds", "--phones", "none.txt"], "none.txt: the list of phones cannot be read"),
        (["song.ds", "--lowest", "H2"], "'H2' is not a note"),
        (["song.ds", "--voice", "x"], "--voice names a voice of a checkpoint"),
    ],
)
def test_bad_options_are_one_sentence(song: Path, refused: Refused, words, complaint):
    assert complaint in refused(["score-lint", *words])
