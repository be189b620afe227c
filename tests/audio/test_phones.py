"""English text and Japanese syllables as phones."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from degauss.audio import japanese, phones
from degauss.audio.phones import (
    ARPABET,
    SILENCES,
    Word,
    from_flite,
    from_ipa,
    lexicon,
    number_words,
    ordinal_words,
    pronounce,
    read_text,
    speech,
)
from degauss.core.errors import InputError


def said(text: str) -> str:
    return " | ".join(" ".join(word.phones) for word in read_text(text))


def test_the_inventory_is_that_of_the_dictionary():
    used = {phone for sounds in lexicon().values() for phone in sounds}
    assert used == set(ARPABET)
    assert len(ARPABET) == 39
    assert len(lexicon()) > 120_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello world", "SP | hh ah l ow | w er l d | SP"),
        ("Hello,   WORLD!!", "SP | hh ah l ow | SP | w er l d | SP"),
        ("-- hello --", "SP | hh ah l ow | SP"),
        ("{hh ah l ow} {SP} b.b.c.", "SP | hh ah l ow | SP | b iy b iy s iy | SP"),
        ("café", "SP | k ah f ey | SP"),
        ("Dr. Smith's fox's cat's", "SP | d aa k t er | s m ih th s | f aa k s ah z | k ae t s | SP"),
        ("'tis o’clock", "SP | t ih z | ah k l aa k | SP"),
        ("tuck'd well-known", "SP | t ah k t | w eh l n ow n | SP"),
        ("3 & 2nd", "SP | th r iy | ah n d | s eh k ah n d | SP"),
        ("a.m. now", "SP | ey eh m | n aw | SP"),
    ],
)
def test_text_is_read(text, expected):
    assert said(text) == expected


def test_a_segment_of_speech_has_phones_and_words():
    segment = speech(read_text("seven, one"))
    assert segment.phones == ("SP", "s", "eh", "v", "ah", "n", "SP", "w", "ah", "n", "SP")
    assert segment.phones_per_word == (1, 5, 1, 3, 1)
    assert segment.text == "SP seven SP one SP"
    assert (segment.durations, segment.notes) == ((), ())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "zero"),
        ("13", "thirteen"),
        ("1999", "one thousand nine hundred ninety nine"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("-0.05", "minus zero point zero five"),
        ("1000000000000", "one trillion"),
    ],
)
def test_numbers_are_read_out(number, words):
    assert " ".join(number_words(number)) == words


@pytest.mark.parametrize(
    ("number", "words"), [("1", "first"), ("12", "twelfth"), ("20", "twentieth"), ("101", "one hundred first")]
)
def test_ordinals_are_read_out(number, words):
    assert " ".join(ordinal_words(number)) == words


VALUES = {word: value for value, word in enumerate(phones._ONES)} | {
    word: 10 * value for value, word in enumerate(phones._TENS, 2)
}


@given(st.integers(0, 10**15 - 1))
def test_a_number_read_out_can_be_read_back(number):
    total = part = 0
    for word in number_words(str(number)):
        if word in VALUES:
            part += VALUES[word]
        elif word == "hundred":
            part *= 100
        else:
            total, part = total + part * {name: scale for scale, name in phones._SCALES}[word], 0
    assert total + part == number


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        words = read_text(text)
    except InputError:
        return
    assert words[0] == words[-1] == phones.SILENT
    assert all(a != phones.SILENT or b != phones.SILENT for a, b in pairwise(words))
    assert {phone for word in words for phone in word.phones} <= {*ARPABET, *SILENCES}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the text '' has no word"),
        ("... !", "the text '... !' has no word"),
        ("sevn", r"no word 'sevn' \(did you mean .*'seven'"),
        ("xqzt seven", "no word 'xqzt'"),
        ("5€", "holds '€', which has no reading"),
        ("{hh xx}", "'xx' is not a phone"),
        ("{}", "the braces are empty"),
        ("1" + 15 * "0", "too large to read out"),
    ],
)
def test_what_cannot_be_said_is_refused_in_a_sentence(text, complaint):
    with pytest.raises(InputError, match=complaint):
        read_text(text)


def test_an_unknown_word_may_be_asked_for():
    assert read_text("xqzt", unknown=lambda word: ("z",))[1] == Word("xqzt", ("z",))
    assert pronounce("Seven") == ("s", "eh", "v", "ah", "n")


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("dɪɡˈaʊs", "d ih g aw s"),
        ("dʒˌaɪɹəskˈɑːpɪk", "jh ay r ah s k aa p ih k"),
        ("bˈɜːɹd", "b er d"),
        ("tʃˈɔɪs", "ch oy s"),
        ("lˈɪɾəl", "l ih t ah l"),
    ],
)
def test_ipa_becomes_arpabet(ipa, expected):
    assert " ".join(from_ipa(ipa)) == expected


def test_ipa_that_arpabet_cannot_write_is_refused():
    with pytest.raises(InputError, match="'ɥ' in"):
        from_ipa("ɥi")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_espeak_agrees_with_the_dictionary_on_plain_words():
    words = ["seven", "three", "thing", "judge", "bird", "choice", "vision", "button", "gyroscopic", "fire"]
    assert [phones.espeak(word) for word in words] == [lexicon()[word] for word in words]
    assert phones.espeak("--version") != ()  # a word is a word, not an option


def test_without_espeak_that_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="espeak-ng is not installed"):
        phones.espeak("xqzt")


def test_flite_speaks_the_same_phones():
    assert from_flite("ax") == ("ah",)
    assert from_flite("pau") == ("SP",)
    assert from_flite("en") == ("ah", "n")
    with pytest.raises(InputError, match="flite says 'qq'"):
        from_flite("qq")


# --- Japanese -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lyric", "expected"),
    [
        ("あ", "a"), ("か", "k a"), ("キャ", "ky a"), ("し", "sh i"), ("ちゅ", "ch u"), ("つ", "ts u"), ("ふ", "f u"),
        ("じょ", "j o"), ("ん", "N"), ("っ", "cl"), ("きょう", "ky o u"), ("カー", "k a"), ("を", "o"), ("ファ", "f a"),
        ("ｶ", "k a"), ("kya", "ky a"), ("shi", "sh i"), ("n", "N"), ("N", "N"), ("hon", "h o N"),
        ("kin'en", "k i N e N"), ("kitte", "k i cl t e"),
        ("matcha", "m a cl ch a"), ("nya", "ny a"), ("Ra", "r a"), ("la", "r a"), ("ga n", "g a N"),
    ],
)  # fmt: skip
def test_japanese_syllables(lyric, expected):
    assert " ".join(japanese.phones_of(lyric)) == expected


def test_every_kana_is_in_the_inventory():
    sounds = {phone for kana in japanese._KANA for phone in japanese.phones_of(kana)}
    assert sounds <= set(japanese.INVENTORY)
    assert set(japanese.INVENTORY) - sounds == set()


def test_the_names_of_the_voicebank_are_syllables(voicebank):
    for syllable in voicebank:
        expected = ("N",) if syllable.romaji == "n" else (syllable.romaji[:-1], syllable.romaji[-1])
        assert japanese.phones_of(syllable.romaji) == tuple(filter(None, expected))


@pytest.mark.parametrize("lyric", ["", "夢", "qa", "ー", "k"])
def test_what_is_no_syllable_is_refused(lyric):
    with pytest.raises(InputError, match="is not a Japanese syllable"):
        japanese.phones_of(lyric)
