"""transcriptions.csv, TextGrids, labels and timings: what is written is read again."""

from __future__ import annotations

import math

import pytest

from degauss.audio.alignment import Aligned, Interval
from degauss.audio.japanese import INVENTORY
from degauss.audio.phones import SILENCES
from degauss.audio.score import Segment
from degauss.audio.transcription import (
    Entry,
    is_lab,
    read_lab,
    read_textgrid,
    read_timings,
    read_transcriptions,
    write_textgrid,
    write_timings,
    write_transcriptions,
)
from degauss.core.errors import InputError
from degauss.core.places import data_root

LABELS = sorted((data_root() / "audio" / "scores" / "kiritan" / "mono_label").glob("*.lab"))
WORDS = [
    Aligned("SP", (Interval("SP", 0.0, 0.2),)),
    Aligned('hé "quoted"', (Interval("hh", 0.2, 0.25), Interval("ey", 0.25, 0.6))),
    Aligned("SP", (Interval("SP", 0.6, 1.0),)),
]
SUNG = Segment(("SP", "a"), (0.1, 0.5), (1, 1), ("rest", "C4+5"), (0.1, 0.5), (0, 0))


def test_transcriptions_are_read_as_written(tmp_path):
    entries = (Entry("one", SUNG, "ann"), Entry("two, three", SUNG, "bob"))
    write_transcriptions(tmp_path / "t.csv", entries)
    assert read_transcriptions(tmp_path / "t.csv") == entries
    speech = (Entry("one", Segment(("SP",), (0.1,))),)
    write_transcriptions(tmp_path / "s.csv", speech)
    assert (tmp_path / "s.csv").read_text() == "name,ph_seq,ph_dur,voice\none,SP,0.1,voice\n"
    assert read_transcriptions(tmp_path / "s.csv") == speech


def test_the_tables_of_others_are_read(tmp_path):
    (tmp_path / "t.csv").write_text("﻿name,ph_seq,ph_dur\n2001,AP w o,0.1 0.05 0.3\n", encoding="utf-8")
    assert read_transcriptions(tmp_path / "t.csv") == (Entry("2001", Segment(("AP", "w", "o"), (0.1, 0.05, 0.3))),)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("a,x,", "line 2: ph_dur is missing or empty"),
        ("a,x,fast", "line 2: ph_dur holds 'fast' at place 1"),
        ("a,x y,0.1 nan", "line 2: ph_dur holds 'nan' at place 2; expected a finite number"),
        ("a,x,0.1\na,x,0.1", "has the name 'a' twice"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, rows, complaint):
    (tmp_path / "t.csv").write_text(f"name,ph_seq,ph_dur\n{rows}\n")
    with pytest.raises(InputError, match=complaint):
        read_transcriptions(tmp_path / "t.csv")
    with pytest.raises(InputError, match="does not exist"):
        read_transcriptions(tmp_path / "u.csv")


def test_textgrids_and_timings_are_read_as_written(tmp_path):
    write_textgrid(tmp_path / "x.TextGrid", WORDS)
    assert read_textgrid(tmp_path / "x.TextGrid") == WORDS
    write_timings(tmp_path / "x.json", WORDS)
    assert read_timings(tmp_path / "x.json") == WORDS


def test_a_textgrid_of_the_montreal_aligner_is_read(tmp_path):
    def tier(name: str, *entries: tuple[float, float, str]) -> str:
        rows = "".join(f'{a}\n{b}\n"{label}"\n' for a, b, label in entries)
        return f'"IntervalTier"\n"{name}"\n0\n1\n{len(entries)}\n{rows}'

    words = tier("words", (0, 0.2, ""), (0.2, 1, "hey"))
    phones = tier("phones", (0, 0.2, "sil"), (0.2, 0.4, "HH"), (0.4, 1, "EY1"))
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n'
    (tmp_path / "x.TextGrid").write_text(f"{head}2\n{words}{phones}")
    assert read_textgrid(tmp_path / "x.TextGrid") == [
        Aligned("SP", (Interval("SP", 0, 0.2),)),
        Aligned("hey", (Interval("hh", 0.2, 0.4), Interval("ey", 0.4, 1))),
    ]
    (tmp_path / "x.TextGrid").write_text(f"{head}1\n{words}")
    with pytest.raises(InputError, match="has no tier 'phones'; expected words and phones, found words"):
        read_textgrid(tmp_path / "x.TextGrid")
    (tmp_path / "x.TextGrid").write_text("hello")
    with pytest.raises(InputError, match="is no TextGrid that can be read"):
        read_textgrid(tmp_path / "x.TextGrid")


def test_labels_are_read_in_seconds_and_in_units_of_htk(tmp_path):
    (tmp_path / "x.lab").write_text("0.0 0.5 pau\n0.5 0.75 br\n0.75 1 I\n")
    expected = [("SP", 0, 0.5), ("AP", 0.5, 0.75), ("i", 0.75, 1)]
    assert read_lab(tmp_path / "x.lab") == expected
    (tmp_path / "x.lab").write_text("0 5000000 sil\n5000000 7500000 br\n7500000 10000000 i\n")
    assert [tuple(p) for p in read_lab(tmp_path / "x.lab")] == [
        (n, pytest.approx(a), pytest.approx(b)) for n, a, b in expected
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("0 1 a\nhello there", "line 2: 'hello there'; expected start, end and phone"),
        ("0 1 a\n0.5 2 b", "line 2: begins or ends before it should"),
        ("1 0 a", "line 1: begins or ends before it should"),
        ("\n", "is empty"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, content, complaint):
    (tmp_path / "x.lab").write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_lab(tmp_path / "x.lab")


def test_words_are_no_labels():
    assert not is_lab("seven three one")
    assert not is_lab("")
    assert not is_lab("0 1 a\nhello")
    assert is_lab("0 1 a\n1 2 b\n")


@pytest.mark.skipif(not LABELS, reason="needs DEGAUSS_DATA/audio/scores/kiritan")
def test_fifty_real_label_files_are_read():
    assert len(LABELS) == 50
    phones = [phone for path in LABELS for phone in read_lab(path)]
    assert {phone.phone for phone in phones} <= {*INVENTORY, *SILENCES}
    vowels = [phone.end - phone.start for phone in phones if phone.phone in "aiueo"]
    assert 0.1 < math.fsum(vowels) / len(vowels) < 0.5  # s
