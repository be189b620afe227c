"""Every fault of a score is found, with its place; real songs have none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from degauss.audio.lint import Limits, check, lint
from degauss.audio.score import Curve, Segment, read_ds
from degauss.core.errors import InputError
from degauss.core.places import data_root

SONGS = sorted((data_root() / "audio" / "scores" / "ds").glob("*.ds"))
NAN = float("nan")
GOOD = Segment(
    phones=("SP", "l", "aa", "SP"),
    durations=(0.3, 0.1, 1.0, 0.2),
    phones_per_word=(2, 1, 1),
    notes=("rest", "C4", "D4", "rest"),
    note_durations=(0.4, 0.5, 0.5, 0.2),
    slurs=(0, 0, 1, 0),
    f0=(260.0,) * 320,
    f0_step=0.005,
    offset=2.0,
)


def faults(limits: Limits | None = None, **changes: object) -> list[str]:
    return [str(fault) for fault in lint([replace(GOOD, **changes)], limits)]


def test_a_good_segment_has_no_fault():
    limits = Limits(("SP", "l", "aa"), 60, 62)
    assert faults(limits) == []
    assert faults(durations=(), f0=()) == []
    assert faults(notes=(), note_durations=(), slurs=()) == []
    assert lint([]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"phones_per_word": (2, 1)}, "segment 1, ph_num: adds up to 3, but there are 4 phones"),
        ({"phones_per_word": (2, 2)}, "segment 1, ph_num: 2 groups for 3 notes that are no slurs"),
        ({"phones_per_word": (3, 1, 0)}, "segment 1, ph_num place 3: is 0; expected at least 1"),
        ({"durations": (0.3, 1.1, 0.2)}, "segment 1, ph_dur: 3 durations for 4 phones"),
        ({"durations": (0.3, -0.1, 1.2, 0.2)}, "segment 1, ph_dur place 2 (at 2.30 s): is -0.1; expected seconds"),
        ({"durations": (0.3, 0.1, NAN, 0.2)}, "segment 1, ph_dur place 3: is nan; expected seconds"),
        ({"note_durations": (0.4, 0.5, 0.2)}, "segment 1, note_dur: 3 durations for 4 notes"),
        ({"note_durations": (0.4, 0.5, float("inf"), 0.2)}, "segment 1, note_dur place 3: is inf"),
        (
            {"note_durations": (0.4, 0.5, 0.7, 0.2)},
            "note_dur place 2 (at 2.40 s): the notes last 1.800 s, but the phones 1.600 s; "
            "here the note lasts 1.200 s, but its phones 1.000 s",
        ),
        (
            {"note_durations": (0.4, 0.5, 0.7, 0.2), "phones_per_word": ()},
            "note_dur: the notes last 1.800 s, but the phones 1.600 s",
        ),
        ({"slurs": (0, 0, 1)}, "segment 1, note_slur: 3 slurs for 4 notes"),
        ({"slurs": (1, 0, 0, 0)}, "note_slur place 1 (at 2.00 s): the first note is a slur"),
        ({"slurs": (0, 1, 0, 0)}, "note_slur place 2 (at 2.40 s): a slur on a rest or after one"),
        ({"slurs": (0, 0, 2, 0)}, "note_slur place 3 (at 2.90 s): is 2; expected 0 or 1"),
        ({"notes": ("rest", "C4", "H4", "rest")}, "note_seq place 3 (at 2.90 s): 'H4' is not a note"),
        ({"f0": (260.0,) * 200}, "f0_seq: lasts 1.000 s, but the segment 1.600 s"),
        ({"f0": (NAN, *GOOD.f0[1:])}, "f0_seq place 1: is nan; expected Hz"),
        ({"f0_step": 0.0}, "f0_timestep: is 0.0; expected seconds, more than 0"),
        ({"offset": NAN}, "offset: is nan; expected seconds"),
        ({"curves": {"energy": Curve((1.0, NAN), 0.005)}}, "energy place 2: is nan; expected a number"),
        ({"phones_per_word": (), "durations": ()}, "ph_num: is missing, and ph_dur too"),
    ],
)
def test_a_fault_is_found_where_it_is(changes, expected):
    assert any(expected in fault for fault in faults(**changes)), faults(**changes)


def test_a_voice_has_limits():
    (fault,) = faults(Limits(phones=("SP", "l", "a")))
    assert fault == "segment 1, ph_seq place 3 (at 2.40 s): no phone 'aa' (did you mean 'a'?)"
    (fault,) = faults(Limits(highest=61.5))
    assert fault == "segment 1, note_seq place 3 (at 2.90 s): D4 is out of range; expected D4-50 or lower"
    assert len(faults(Limits(lowest=64, highest=70))) == 2


def test_small_differences_are_rounding():
    assert faults(note_durations=(0.4, 0.5, 0.56, 0.2)) == []
    assert len(faults(note_durations=(0.4, 0.5, 0.57, 0.2))) == 1


def test_sung_parts_must_not_overlap_but_rests_may():
    after = replace(GOOD, offset=3.2)  # its note begins at 3.6; the first one's ends at 3.4
    assert lint([GOOD, after]) == []
    (fault,) = lint([GOOD, replace(GOOD, offset=2.9)])
    assert str(fault) == "segment 2, offset (at 3.30 s): begins 0.100 s before segment 1 ends"


def test_check_raises_the_first_fault_with_the_name_of_the_file():
    check([GOOD], "song.ds")
    bad = replace(GOOD, slurs=(1, 0, 0, 0), phones_per_word=(2, 1), offset=10.0)
    with pytest.raises(InputError, match=r"^song.ds: segment 2, ph_num: adds up to 3.*\(2 more: see score-lint\)\.$"):
        check([GOOD, bad], "song.ds")


@pytest.mark.skipif(not SONGS, reason="needs the songs of DEGAUSS_DATA/audio/scores/ds")
def test_real_songs_have_no_fault_until_one_is_made():
    for song in SONGS:
        score = read_ds(song)
        assert lint(score) == [], song
        middle = len(score) // 2
        broken = replace(score[middle], note_durations=score[middle].note_durations[1:])
        assert {f.segment for f in lint([*score[:middle], broken, *score[middle + 1 :]])} == {middle + 1}
