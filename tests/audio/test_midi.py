"""Melodies of MIDI files, and how notes with lyrics become segments."""

from __future__ import annotations

from dataclasses import replace

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio.lint import lint
from degauss.audio.lyrics import Note, english, japanese, split_syllables, sung
from degauss.audio.midi import read_midi, write_midi
from degauss.audio.songs import Reading, read_song
from degauss.audio.transcription import read_lab
from degauss.core.errors import InputError
from degauss.core.places import data_root

KIRITAN = data_root() / "audio" / "scores" / "kiritan"
needs_kiritan = pytest.mark.skipif(not KIRITAN.is_dir(), reason="needs DEGAUSS_DATA/audio/scores/kiritan")


def melody(*lyrics: str, start: float = 1.0, length: float = 0.5) -> list[Note]:
    """Notes one after the other, rising by a semitone; a lyric of None is a rest."""
    return [Note(start + k * length, start + (k + 1) * length, 60.0 + k, lyric) for k, lyric in enumerate(lyrics)]


# --- lyrics to segments -------------------------------------------------------------------------------------


def test_consonants_belong_to_the_note_before_so_that_vowels_begin_with_theirs():
    (segment,) = sung(melody("か", "し", "ん"), japanese)
    assert segment.phones == ("SP", "k", "a", "sh", "i", "N", "SP")
    assert segment.phones_per_word == (2, 2, 1, 1, 1)
    assert segment.notes == ("rest", "C4", "C#4", "D4", "rest")
    assert segment.note_durations == pytest.approx((0.5, 0.5, 0.5, 0.5, 0.3))
    assert segment.slurs == (0, 0, 0, 0, 0)
    assert segment.offset == 0.5
    assert segment.text == "か し ん"


def test_a_note_without_a_lyric_is_a_slur():
    for mark in ("", "-", "ー", "+"):
        (segment,) = sung(melody("か", mark, "き"), japanese)
        assert segment.slurs == (0, 0, 1, 0, 0)
        assert segment.phones == ("SP", "k", "a", "k", "i", "SP")
        assert segment.phones_per_word == (2, 2, 1, 1)
        assert lint([segment]) == []


def test_a_song_that_begins_at_once_has_no_rest_and_keeps_its_time():
    (segment,) = sung(melody("か", start=0.0), japanese)
    assert (segment.offset, segment.notes) == (0.0, ("C4", "rest"))
    assert segment.phones_per_word == (2, 1)


def test_rests_of_a_bar_or_two_seconds_part_phrases():
    first, second = melody("か"), melody("き", start=3.0)
    assert len(sung([*first, *second], japanese, bar=2.0)) == 1
    parts = sung([*first, *second], japanese, bar=1.2)
    assert [part.offset for part in parts] == [0.5, 2.5]
    assert len(sung([*first, *melody("き", start=3.6)], japanese, bar=9.0)) == 2
    assert lint(parts) == []


def test_a_long_phrase_ends_at_the_next_breath():
    notes = melody(*["ら"] * 30) + melody(*["ら"] * 4, start=16.6)
    parts = sung(notes, japanese)
    assert len(parts) == 2
    assert lint(parts) == []
    assert len(sung(melody(*["ら"] * 4) + melody("ら", start=3.6), japanese)) == 1


def test_gaps_of_a_few_milliseconds_are_no_rests():
    notes = [Note(1.0, 1.49, 60.0, "か"), Note(1.5, 2.0, 62.0, "き")]
    (segment,) = sung(notes, japanese)
    assert segment.notes == ("rest", "C4", "D4", "rest")
    assert segment.note_durations[1] == pytest.approx(0.5)


def test_words_are_sung_over_their_notes():
    notes = melody("Hel", "lo", "world")
    notes[1] = replace(notes[1], joined=True)
    (segment,) = sung(notes, english)
    assert segment.phones == ("SP", "hh", "ah", "l", "ow", "w", "er", "l", "d", "SP")
    assert segment.phones_per_word == (2, 2, 2, 3, 1)


@pytest.mark.parametrize(
    ("syllables", "expected"),
    [
        (["Sev-", "en"], "s eh | v ah n"),
        (["to", "mor", "row"], "t ah | m aa | r ow"),
        (["sing", "ing"], "s ih ng | ih ng"),
        (["ex", "treme"], "eh k s | t r iy m"),
        (["love"], "l ah v"),
        (["ev", "ery"], "eh | v er iy"),
        (["world", "ed"], None),
        (["fi", "re"], "f ay | er"),
        (["ca", "fe"], "k ah | f ey"),
        (["doo", "ooor"], None),
        (["Take,"], "t ey k"),
    ],
)
def test_english_is_split_between_vowels(syllables, expected):
    if expected is None:
        with pytest.raises(InputError, match="no word"):
            english(syllables)
    else:
        assert " | ".join(" ".join(part) for part in english(syllables)) == expected


@given(st.lists(st.sampled_from(["s", "t", "r", "ng", "aa", "iy", "er"]), min_size=1, max_size=12), st.integers(1, 5))
def test_splitting_keeps_every_phone_in_order(phones, count):
    parts = split_syllables(phones, count)
    assert len(parts) == count
    assert [phone for part in parts for phone in part] == phones


def test_one_syllable_serves_for_all():
    notes = melody("Gott", "", "Gü")
    (segment,) = sung(notes, japanese, lyric="ら")
    assert segment.slurs == (0, 0, 1, 0, 0)
    assert segment.phones == ("SP", "r", "a", "r", "a", "SP")
    (bare,) = sung(melody("", "", ""), japanese, lyric="ら")
    assert bare.slurs == (0, 0, 0, 0, 0)


def test_lyrics_that_cannot_be_sung_are_refused_with_their_time():
    with pytest.raises(InputError, match=r"the lyric at 1.50 s: '夢' is not a Japanese .* \(--lyric la\)\.$"):
        sung(melody("か", "夢"), japanese)
    with pytest.raises(InputError, match="the song has no lyrics"):
        sung(melody("", ""), japanese)
    with pytest.raises(InputError, match=r"the note at 1.00 s has no lyric, and nothing before it"):
        sung(melody("", "か"), japanese)
    with pytest.raises(InputError, match="the song has no note"):
        sung([], japanese)


# --- MIDI files ---------------------------------------------------------------------------------------------

NOTES = (
    Note(0.5, 1.0, 60.0, "Hel"),
    Note(1.0, 1.25, 62.0, "lo", joined=True),
    Note(1.25, 2.0, 64.0, ""),
    Note(2.5, 3.0, 55.0, "かー"),
)


@pytest.mark.parametrize("tempo", [120.0, 83.0])
def test_what_is_written_is_read_again(tmp_path, tempo):
    write_midi(tmp_path / "x.mid", NOTES, tempo)
    found = read_midi(tmp_path / "x.mid")
    assert found.bar == pytest.approx(240 / tempo)
    for note, expected in zip(found.notes, NOTES, strict=True):
        assert (note.start, note.end) == pytest.approx((expected.start, expected.end), abs=1e-3)
        assert (note.pitch, note.lyric.removesuffix("-"), note.joined) == (
            expected.pitch,
            expected.lyric,
            expected.joined,
        )


def midi(tmp_path, *tracks, **options):
    song = mido.MidiFile(ticks_per_beat=100, **options)
    for messages in tracks:
        song.tracks.append(mido.MidiTrack(messages))
    song.save(tmp_path / "x.mid")
    return tmp_path / "x.mid"


def on(note: int, time: int = 0, velocity: int = 64):
    return mido.Message("note_on", note=note, velocity=velocity, time=time)


def meta(kind: str, time: int = 0, **values):
    return mido.MetaMessage(kind, time=time, **values)


def test_tempo_changes_count_wherever_they_stand(tmp_path):
    tempos = [
        meta("set_tempo", tempo=1_000_000),
        meta("set_tempo", 150, tempo=500_000),
        meta("set_tempo", 100, tempo=250_000),
    ]
    signature = meta("time_signature", numerator=3, denominator=4)
    notes = [on(60, 100), on(60, 100, 0), on(62), on(62, 100, 0)]  # ticks 100 to 200 to 300
    found = read_midi(midi(tmp_path, [signature, *tempos], notes))
    # 1.5 s to tick 150, then 0.5 s a beat to tick 250, then 0.25 s a beat.
    assert [(note.start, note.end) for note in found.notes] == [
        pytest.approx((1.0, 1.75)), pytest.approx((1.75, 2.125)),
    ]  # fmt: skip
    assert found.bar == pytest.approx(3.0)


def test_notes_that_sound_together_are_refused_but_legato_is_not(tmp_path):
    chord = [on(60), on(64, 50), on(60, 50, 0), on(64, 50, 0)]
    with pytest.raises(InputError, match=r"x.mid: two notes sound at once at 0.25 s"):
        read_midi(midi(tmp_path, chord))
    together = [on(60), on(64), on(60, 10, 0), on(64, 0, 0)]
    with pytest.raises(InputError, match=r"sound at once at 0.00 s"):
        read_midi(midi(tmp_path, together))
    legato = [on(60), on(64, 50), on(60, 10, 0), on(64, 50, 0)]  # held 50 ms too long
    first, second = read_midi(midi(tmp_path, legato)).notes
    assert first.end == second.start == pytest.approx(0.25)


def test_the_track_with_lyrics_is_the_melody(tmp_path):
    piano = [on(40), on(40, 10, 0), on(41), on(41, 10, 0)]
    voice = [meta("lyrics", text="la"), on(60), on(60, 10, 0)]
    path = midi(tmp_path, [], piano, voice)
    assert [note.pitch for note in read_midi(path).notes] == [60]
    assert [note.pitch for note in read_midi(path, 1).notes] == [40, 41]
    with pytest.raises(InputError, match="has no track 3; expected one from 0 to 2"):
        read_midi(path, 3)
    with pytest.raises(InputError, match="track 0 has a note"):
        read_midi(path, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_japanese_lyrics_are_read_in_either_encoding(tmp_path, encoding):
    text = "きゃ".encode(encoding).decode("latin-1")
    (note,) = read_midi(midi(tmp_path, [meta("lyrics", text=text), on(60), on(60, 10, 0)])).notes
    assert note.lyric == "きゃ"


def test_a_file_that_is_no_midi_is_refused(tmp_path):
    (tmp_path / "x.mid").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"x.mid is no MIDI file"):
        read_midi(tmp_path / "x.mid")
    with pytest.raises(InputError, match="does not exist"):
        read_midi(tmp_path / "y.mid")
    whole = midi(tmp_path, [on(60), on(60, 10, 0)]).read_bytes()
    (tmp_path / "z.mid").write_bytes(whole[:-6])
    with pytest.raises(InputError, match=r"z.mid is no MIDI file"):
        read_midi(tmp_path / "z.mid")


# --- real songs ---------------------------------------------------------------------------------------------


@needs_kiritan
def test_fifty_real_melodies_are_sung_on_one_syllable():
    songs = sorted((KIRITAN / "midi_label").glob("*.mid"))
    assert len(songs) == 50
    for song in songs:
        score = read_song(song, Reading(lyric="ら"))
        assert lint(score) == [], song
        heard = sum(note != "rest" for segment in score for note in segment.notes)
        assert heard == len(read_midi(song).notes)
    with pytest.raises(InputError, match=r"01.mid: the song has no lyrics"):
        read_song(songs[0])


@needs_kiritan
@pytest.mark.parametrize("song", ["05", "33"])
def test_a_real_melody_is_in_time_with_its_hand_made_labels(song):
    """Nine of ten notes begin within 60 ms of a vowel that was labelled by hand in the recording."""
    notes = read_midi(KIRITAN / "midi_label" / f"{song}.mid").notes
    labels = read_lab(KIRITAN / "mono_label" / f"{song}.lab")
    vowels = [phone.start for phone in labels if phone.phone in "aiueoN"]

    def share(stretch: float) -> float:
        near = [min(abs(note.start * stretch - vowel) for vowel in vowels) < 0.06 for note in notes]
        return sum(near) / len(near)

    assert share(1.0) > 0.9
    assert share(1.02) < 0.5  # must fail: a tempo that is 2 % off
