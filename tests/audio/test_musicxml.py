"""Voices of MusicXML scores: written by hand with known answers, and real Lieder."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from degauss.audio.lint import lint
from degauss.audio.midi import Melody
from degauss.audio.musicxml import read_musicxml
from degauss.audio.songs import Reading, read_song
from degauss.core.errors import InputError
from degauss.core.places import data_root

pytest.importorskip("music21", reason="needs the extra degauss-audio[scores]")
LIEDER = sorted((data_root() / "audio" / "scores" / "lieder").glob("*.mxl"))
needs_lieder = pytest.mark.skipif(not LIEDER, reason="needs DEGAUSS_DATA/audio/scores/lieder")


def note(pitch: str, duration: int, lyric: str = "", *, extra: str = "", chord: bool = False) -> str:
    """A note of so many eighths; ``lyric`` as "text" or "text:syllabic", several verses parted by /."""
    step, octave = pitch[0], pitch[-1]
    alter = "<alter>1</alter>" if "#" in pitch else ""
    verses = "".join(
        f'<lyric number="{k}"><syllabic>{verse.partition(":")[2] or "single"}</syllabic>'
        f"<text>{verse.partition(':')[0]}</text></lyric>"
        for k, verse in enumerate(lyric.split("/"), 1)
        if verse
    )
    return (
        f"<note>{'<chord/>' if chord else ''}<pitch><step>{step}</step>{alter}<octave>{octave}</octave></pitch>"
        f"<duration>{duration}</duration><voice>1</voice>{extra}{verses}</note>"
    )


def rest(duration: int) -> str:
    return f"<note><rest/><duration>{duration}</duration><voice>1</voice></note>"


def tempo(beats: float) -> str:
    return (
        "<direction><direction-type><metronome><beat-unit>quarter</beat-unit>"
        f"<per-minute>{beats:g}</per-minute></metronome></direction-type></direction>"
    )


def part(number: int, *measures: str) -> str:
    head = "<attributes><divisions>2</divisions><time><beats>3</beats><beat-type>4</beat-type></time></attributes>"
    body = "".join(
        f'<measure number="{k}">{head if k == 1 else ""}{measure}</measure>' for k, measure in enumerate(measures, 1)
    )
    return f'<part id="P{number}">{body}</part>'


def score(tmp_path: Path, *parts: str, names: tuple[str, ...] = ("Voice", "Piano")) -> Path:
    listed = "".join(
        f'<score-part id="P{k}"><part-name>{name}</part-name></score-part>'
        for k, name in enumerate(names[: len(parts)], 1)
    )
    path = tmp_path / "song.musicxml"
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><score-partwise version="3.1">'
        f"<part-list>{listed}</part-list>{''.join(parts)}</score-partwise>"
    )
    return path


def shown(melody: Melody) -> list[tuple[float, float, float, str, bool]]:
    return [(round(n.start, 4), round(n.end, 4), n.pitch, n.lyric, n.joined) for n in melody.notes]


TIE_START, TIE_STOP = '<tie type="start"/>', '<tie type="stop"/>'


def test_ties_slurs_and_syllables(tmp_path):
    path = score(
        tmp_path,
        part(
            1,
            tempo(60) + note("C4", 2, "Hel:begin") + note("D4", 2, "lo:end") + note("E4", 2),
            note("F#4", 4, "world", extra=TIE_START) + rest(2),
            note("G4", 2, "la", extra=TIE_START) + note("G4", 2, extra=TIE_STOP) + note("G4", 2),
        ),
    )
    melody = read_musicxml(path)
    assert melody.bar == pytest.approx(3.0)
    assert shown(melody) == [
        (0, 1, 60, "Hel", False),
        (1, 2, 62, "lo", True),
        (2, 3, 64, "", False),
        (3, 5, 66, "world", False),
        (6, 8, 67, "la", False),
        (8, 9, 67, "", False),
    ]
    (segment,) = read_song(path, Reading(language="english"))
    assert segment.notes == ("C4", "D4", "E4", "F#4", "rest", "G4", "G4", "rest")
    assert segment.slurs == (0, 0, 1, 0, 0, 0, 1, 0)
    assert segment.phones_per_word == (3, 2, 3, 2, 1, 1)
    assert lint([segment]) == []


def test_tempo_marks_count_and_can_be_replaced(tmp_path):
    path = score(tmp_path, part(1, tempo(60) + note("C4", 6, "a"), tempo(120) + note("D4", 6, "b")))
    assert [n[:2] for n in shown(read_musicxml(path))] == [(0, 3), (3, 4.5)]
    assert [n[:2] for n in shown(read_musicxml(path, tempo=90))] == [(0, 2), (2, 4)]
    bare = score(tmp_path, part(1, note("C4", 6, "a")))
    assert read_musicxml(bare).notes[0].end == pytest.approx(1.5)  # 120 a minute


def test_verses_and_parts_are_chosen(tmp_path):
    voice = part(1, note("C4", 6, "one/two"))
    piano = part(2, note("C3", 6))
    path = score(tmp_path, piano.replace("P2", "P1"), voice.replace("P1", "P2"), names=("Piano", "Soprano solo"))
    assert read_musicxml(path).notes[0].lyric == "one"
    assert read_musicxml(path, verse=2).notes[0].lyric == "two"
    assert read_musicxml(path, "piano").notes[0].pitch == 48
    with pytest.raises(InputError, match="has no verse 3; expected one of 1, 2"):
        read_musicxml(path, verse=3)
    with pytest.raises(InputError, match=r"has no part 'alto'.*its parts are Piano, Soprano solo"):
        read_musicxml(path, "alto")


def test_of_two_notes_at_once_the_one_with_a_lyric_or_the_higher_is_sung(tmp_path):
    chord = note("C4", 2, "a") + note("E4", 2, chord=True)
    second = "<backup><duration>4</duration></backup>" + note("C3", 4).replace("<voice>1", "<voice>2")
    path = score(tmp_path, part(1, chord + note("D4", 4, "b") + second))
    assert shown(read_musicxml(path)) == [(0, 0.5, 64, "a", False), (0.5, 1.5, 62, "b", False)]


def test_what_is_no_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_musicxml(tmp_path / "none.mxl")
    for name, content in (("x.musicxml", "hello"), ("x.mxl", "PK"), ("y.musicxml", "<score-partwise>")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=f"{name} is no MusicXML that can be read"):
            read_musicxml(tmp_path / name)
    two = score(tmp_path, part(1, note("C4", 6)), part(2, note("C3", 6)))
    with pytest.raises(InputError, match="no part has lyrics; name one of its parts: Voice, Piano"):
        read_musicxml(two)
    with pytest.raises(InputError, match="the part has no note"):
        read_musicxml(score(tmp_path, part(1, rest(6))))


def test_without_music21_the_extra_is_named(tmp_path, monkeypatch):
    path = score(tmp_path, part(1, note("C4", 6, "a")))
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(InputError, match=r"degauss-audio\[scores\]"):
        read_musicxml(path)


def test_a_compressed_score_is_the_same(tmp_path):
    path = score(tmp_path, part(1, note("C4", 6, "a")))
    with zipfile.ZipFile(tmp_path / "song.mxl", "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            '<container><rootfiles><rootfile full-path="song.musicxml"/></rootfiles></container>',
        )
        archive.write(path, "song.musicxml")
    assert read_musicxml(tmp_path / "song.mxl") == read_musicxml(path)


# --- real Lieder --------------------------------------------------------------------------------------------


@needs_lieder
@pytest.mark.parametrize("name", ["lc6564767", "lc29161304"])
def test_real_songs_are_sung(name):
    (path,) = [path for path in LIEDER if path.stem == name]
    score = read_song(path, Reading(language="english", lyric="la"))
    assert lint(score) == []
    melody = read_musicxml(path)
    assert sum(note != "rest" for segment in score for note in segment.notes) == len(melody.notes)
    assert sum(bool(note.lyric) for note in melody.notes) > 0.6 * len(melody.notes)
    assert all(a.end <= b.start + 1e-9 for a, b in zip(melody.notes, melody.notes[1:], strict=False))


@needs_lieder
def test_english_words_are_found_and_german_ones_refused():
    (english,) = [path for path in LIEDER if path.stem == "lc6583477"]
    (german,) = [path for path in LIEDER if path.stem == "lc5121692"]
    segment = read_song(english, Reading(language="english"))[0]
    assert " ".join(segment.phones[:12]) == "SP l ao r d f ao r t ah m aa"  # Lord, for to-mor-row
    assert lint([segment]) == []
    with pytest.raises(InputError, match=r"lc5121692.mxl: the lyric at 1.71 s: .*no word 'ist'.*\(--lyric la\)"):
        read_song(german, Reading(language="english"))
