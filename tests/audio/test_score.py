"""Segments, notes and `.ds` files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio.score import Curve, Segment, note_name, note_pitch, read_ds, write_ds
from degauss.core.errors import InputError
from degauss.core.places import data_root

SONGS = sorted((data_root() / "audio" / "scores" / "ds").glob("*.ds"))
CURVES = {"energy": Curve((-79.5, 0.1), 0.0116)}
SEGMENT = Segment(
    phones=("SP", "l", "a", "SP"),
    durations=(0.1, 0.05, 0.3, 0.1),
    phones_per_word=(2, 1, 1),
    notes=("rest", "C#4+10", "D4", "rest"),
    note_durations=(0.15, 0.2, 0.1, 0.1),
    slurs=(0, 0, 1, 0),
    f0=(261.6, 0.0),
    f0_step=0.011609977324263039,
    offset=1.25,
    text="SP la SP",
    curves=CURVES,
    extras={"spk_mix": {"a": "0.5"}, "gender": None},
)


def test_a_segment_lasts_as_long_as_its_phones_or_notes_or_f0():
    assert SEGMENT.duration == pytest.approx(0.55)
    assert Segment(("a",), note_durations=(0.5, 0.25)).duration == 0.75
    assert Segment(("a",), f0=(100.0,) * 10, f0_step=0.01).duration == pytest.approx(0.1)
    assert Segment(("a",)).duration == 0


@pytest.mark.parametrize(("name", "pitch"), [("A4", 69), ("C4", 60), ("C#4+10", 61.1), ("Bb3", 58), ("C-1-50", -0.5)])
def test_notes_have_names(name, pitch):
    assert note_pitch(name) == pytest.approx(pitch)


def test_a_rest_has_no_pitch():
    assert note_pitch("rest") is None
    assert note_name(None) == "rest"


@given(st.integers(0, 12700))
def test_the_name_of_a_pitch_says_it_to_the_cent(cents):
    assert note_pitch(note_name(cents / 100)) == pytest.approx(cents / 100)


def test_what_is_written_is_read_again(tmp_path):
    write_ds(tmp_path / "x.ds", [SEGMENT, Segment(("SP", "a"))])
    assert read_ds(tmp_path / "x.ds") == (SEGMENT, Segment(("SP", "a")))
    first = json.loads((tmp_path / "x.ds").read_text())[0]
    assert first["ph_dur"] == "0.1 0.05 0.3 0.1"
    assert first["note_slur"] == "0 0 1 0"
    assert (first["spk_mix"], first["gender"]) == ({"a": "0.5"}, None)


@pytest.mark.skipif(not SONGS, reason="needs the songs of DEGAUSS_DATA/audio/scores/ds")
def test_real_songs_survive_a_round_trip(tmp_path):
    assert len(SONGS) == 8
    for song in SONGS:
        score = read_ds(song)
        write_ds(tmp_path / song.name, score)
        assert read_ds(tmp_path / song.name) == score
        before, after = (json.loads(path.read_text()) for path in (song, tmp_path / song.name))
        for old, new in zip(before, after, strict=True):
            assert old.keys() <= new.keys()
            for key in old:
                assert str(old[key]).split() == str(new[key]).split() or numbers(old[key]) == numbers(new[key])


def numbers(text: object) -> list[float]:
    return [float(word) for word in str(text).split()]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON list of segments"),
        ("[1]", "expected a JSON list of segments"),
        ("[{}]", "segment 1: ph_seq is missing or empty"),
        ('[{"ph_seq": "a"}, {"ph_seq": "a b", "ph_dur": "0.1 x"}]', "segment 2: ph_dur holds 'x' at place 2"),
        ('[{"ph_seq": "a", "ph_num": "1.5"}]', "ph_num holds 1.5 at place 1; expected an integer"),
        ('[{"ph_seq": "a", "f0_timestep": "fast"}]', "f0_timestep is 'fast'; expected a number"),
        ('[{"ph_seq": 3}]', "ph_seq is 3; expected a string"),
    ],
)
def test_a_file_that_is_no_score_is_refused(tmp_path, content, complaint):
    (tmp_path / "x.ds").write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_ds(tmp_path / "x.ds")
    with pytest.raises(InputError, match="does not exist"):
        read_ds(tmp_path / "y.ds")


def test_nan_is_read_for_lint_to_see_but_never_written_in_json(tmp_path):
    (tmp_path / "x.ds").write_text('[{"ph_seq": "a", "ph_dur": "nan"}]')
    (segment,) = read_ds(tmp_path / "x.ds")
    assert segment.durations[0] != segment.durations[0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_ds(tmp_path / "y.ds", [Segment(("a",), offset=float("nan"))])
    assert not (tmp_path / "y.ds").exists()
