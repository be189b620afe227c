r"""English text as phones: ARPAbet without stress, from the pronouncing dictionary that pocketsphinx brings.

    read_text("Seven, at 3.5 {hh eh r t s}")
    # SP | seven: s eh v ah n | SP | at: ae t | three: th r iy | point: p oy n t | five: f ay v | hh eh r t s | SP

Text is words, numbers, pauses and phones in braces:

* a **word** is looked up in lower case; one with hyphens or points that is not there is read in parts, the 's of a
  known word is added by rule (s after a voiceless phone, ih z after a sibilant, z otherwise), and 'd is read as -ed;
* a **number** is read out as an integer or decimal, 1999 as "one thousand nine hundred ninety nine", 3rd as "third";
* **punctuation** is a pause, `SP`; the text begins and ends with one;
* **braces** hold phones as they are.

A word that the dictionary lacks is refused, with its near misses, unless a fall-back is given: `espeak` asks the
program espeak-ng and turns its IPA into ARPAbet. A character with no reading is refused too; nothing is dropped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from degauss.audio.score import Segment
from degauss.core.errors import InputError

PAUSE, BREATH = "SP", "AP"
SILENCES = (PAUSE, BREATH)
VOWELS = ("aa", "ae", "ah", "ao", "aw", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw")
CONSONANTS = (
    "b", "ch", "d", "dh", "f", "g", "hh", "jh", "k", "l", "m", "n", "ng", "p", "r", "s", "sh", "t", "th", "v", "w",
    "y", "z", "zh",
)  # fmt: skip
ARPABET = VOWELS + CONSONANTS

Phones = tuple[str, ...]
Pronounce = Callable[[str], Phones]


class Word(NamedTuple):
    """A word as it is written, and its phones; a pause is `Word("SP", ("SP",))`."""

    text: str
    phones: Phones


SILENT = Word(PAUSE, (PAUSE,))


# --- the dictionary -----------------------------------------------------------------------------------------


@cache
def lexicon() -> Mapping[str, Phones]:
    """Word in lower case -> its first pronunciation: about 126 000 words, read when first asked for."""
    from pocketsphinx import get_model_path

    found: dict[str, Phones] = {}
    with open(get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as lines:
        for line in lines:
            word, _, phones = line.strip().partition(" ")
            if not word.endswith(")"):  # word(2), word(3): other ways to say it
                found[word] = tuple(phones.lower().split())
    return found


def refuse(word: str) -> Phones:
    """What `read_text` does with a word that is not in the dictionary, unless told otherwise."""
    near = _near(word)
    hint = f" (did you mean {', '.join(map(repr, near))}?)" if near else ""
    raise InputError(
        f"the pronouncing dictionary has no word {word!r}{hint}; expected an English word, or its phones in braces, "
        "as in {hh ah l ow}."
    )


def _near(word: str) -> list[str]:
    import difflib

    pool = [known for known in lexicon() if known[0] == word[0] and abs(len(known) - len(word)) <= 2]
    return difflib.get_close_matches(word, pool, n=3, cutoff=0.7)


def pronounce(word: str, unknown: Pronounce = refuse) -> Phones:
    """The phones of one English word (any case, accents allowed); ``unknown`` is asked where no rule knows it."""
    word = word.lower().replace("’", "'")
    return _known(word) or _known(_plain(word)) or unknown(word)


def _known(word: str) -> Phones | None:
    """Phones from the dictionary: the word, without quotes, of its parts, or of a known word with 's or 'd."""
    words = lexicon()
    for form in (word, word.strip("'"), f"{word}."):
        if form in words:
            return words[form]
    if word.endswith("'d") and f"{word[:-2]}ed" in words:
        return words[f"{word[:-2]}ed"]
    if word.endswith("'s") and (stem := _known(word[:-2])):
        return stem + _possessive(stem[-1])
    parts = [part for part in re.split(r"[-.]", word) if part]
    if len(parts) < 2:
        return None
    spoken = [_known(part) for part in parts]
    return tuple(phone for part in spoken if part for phone in part) if all(spoken) else None


def _possessive(last: str) -> Phones:
    if last in ("s", "z", "sh", "zh", "ch", "jh"):
        return ("ih", "z")
    return ("s",) if last in ("p", "t", "k", "f", "th") else ("z",)


def _plain(word: str) -> str:
    """The word without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


# --- text ---------------------------------------------------------------------------------------------------

_TITLES = {"mr.": "mister", "mrs.": "missus", "ms.": "miz", "dr.": "doctor"}
_SYMBOLS = {"&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at"}
_TOKEN = re.compile(
    r"""\{(?P<phones>[^{}]*)\}
      | (?P<number>(?<!\w)-?\d[\d,]*(?:\.\d+)?(?P<ordinal>st|nd|rd|th)?(?!\w))
      | (?P<title>\b(?:mr|mrs|ms|dr)\.(?=\s))
      | (?P<word>(?:[^\W\d_]\.){2,}|'?[^\W\d_]+(?:['’.-][^\W\d_]+)*'?)
      | (?P<symbol>[&%+=@])
      | (?P<pause>[.,;:!?…()\[\]"“”«»—–\n-])
      | (?P<quiet>[\s'‘’*_]+)
      | (?P<other>.)""",
    re.VERBOSE | re.IGNORECASE,
)


def read_text(text: str, unknown: Pronounce = refuse) -> tuple[Word, ...]:
    """The words of an English text with their phones, a pause at both ends and for each run of punctuation.

    Raises:
        InputError: there is nothing to say, a word or character has no reading, or phones in braces are unknown.
    """
    words: list[Word] = [SILENT]
    for found in _TOKEN.finditer(text):
        for word in _read(found, unknown):
            if word != SILENT or words[-1] != SILENT:
                words.append(word)
    if len(words) == 1:
        raise InputError(f"the text {_shown(text)} has no word; expected at least one to say.")
    return tuple(words if words[-1] == SILENT else [*words, SILENT])


def _read(found: re.Match[str], unknown: Pronounce) -> Iterable[Word]:
    kind, token = found.lastgroup, found[0]
    if found["phones"] is not None:
        return [_raw(found["phones"])]
    if found["number"] is not None:
        read = ordinal_words if found["ordinal"] else number_words
        return [Word(word, pronounce(word)) for word in read(token.rstrip("stndrh"))]
    if kind == "title":
        return [Word(token, pronounce(_TITLES[token.lower()]))]
    if kind == "word":
        return [Word(token, pronounce(token, unknown))]
    if kind == "symbol":
        return [Word(_SYMBOLS[token], pronounce(_SYMBOLS[token]))]
    if kind == "other":
        raise InputError(f"the text holds {token!r}, which has no reading; expected words, numbers and punctuation.")
    return [SILENT] if kind == "pause" else []


def _raw(inside: str) -> Word:
    phones = tuple(inside.split())
    if phones == SILENT.phones:
        return SILENT
    for phone in phones:
        if phone not in ARPABET and phone not in SILENCES:
            raise InputError(
                f"{{{inside}}}: {phone!r} is not a phone; expected {PAUSE} or some of {' '.join(ARPABET)}."
            )
    if not phones:
        raise InputError("{}: the braces are empty; expected phones, as in {hh ah l ow}.")
    return Word(f"{{{inside.strip()}}}", phones)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def speech(words: Iterable[Word]) -> Segment:
    """Words as a segment to be spoken: phones and their words; durations, notes and f0 are left to a model."""
    words = tuple(words)
    return Segment(
        phones=tuple(phone for word in words for phone in word.phones),
        phones_per_word=tuple(len(word.phones) for word in words),
        text=" ".join(word.text for word in words),
    )


# --- numbers ------------------------------------------------------------------------------------------------

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip


def number_words(number: str) -> list[str]:
    """The words of a number in digits, as "-1,234.05": a sign, commas and a decimal point may be there.

    Raises:
        InputError: it is 10^15 or more.
    """
    whole, _, fraction = number.lstrip("-").replace(",", "").partition(".")
    value = int(whole)
    if value >= 10**15:
        raise InputError(f"the number {number} is too large to read out; expected one under 10^15.")
    words = ["minus"] if number.startswith("-") else []
    words += _integer(value)
    return [*words, "point", *(_ONES[int(digit)] for digit in fraction)] if fraction else words


def ordinal_words(number: str) -> list[str]:
    """The words of an ordinal given by its digits: "21" -> twenty first."""
    *words, last = number_words(number)
    return [*words, _ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")]


def _integer(value: int) -> list[str]:
    if value < 20:
        return [_ONES[value]]
    if value < 100:
        tens, ones = divmod(value, 10)
        return [_TENS[tens - 2], *([_ONES[ones]] if ones else [])]
    scale, name = next(pair for pair in _SCALES if value >= pair[0])
    count, rest = divmod(value, scale)
    return [*_integer(count), name, *(_integer(rest) if rest else [])]


# --- espeak-ng ----------------------------------------------------------------------------------------------

_IPA: dict[str, Phones] = {
    "aɪə": ("ay", "ah"), "aɪɚ": ("ay", "er"), "aɪ": ("ay",), "aʊ": ("aw",), "eɪ": ("ey",), "oʊ": ("ow",),
    "əʊ": ("ow",), "ɔɪ": ("oy",), "tʃ": ("ch",), "dʒ": ("jh",), "əl": ("ah", "l"), "n̩": ("ah", "n"),
    "l̩": ("ah", "l"), "ɑ": ("aa",), "ɒ": ("aa",), "a": ("aa",), "æ": ("ae",), "ʌ": ("ah",), "ə": ("ah",),
    "ɐ": ("ah",), "ɔ": ("ao",), "o": ("ao",), "ɛ": ("eh",), "e": ("eh",), "ɚ": ("er",), "ɜ": ("er",), "ɝ": ("er",),
    "ɪ": ("ih",), "ᵻ": ("ih",), "i": ("iy",), "ʊ": ("uh",), "u": ("uw",), "b": ("b",), "d": ("d",), "ð": ("dh",),
    "f": ("f",), "ɡ": ("g",), "g": ("g",), "h": ("hh",), "k": ("k",), "x": ("k",), "l": ("l",), "ɫ": ("l",),
    "m": ("m",), "n": ("n",), "ŋ": ("ng",), "p": ("p",), "ɹ": ("r",), "r": ("r",), "s": ("s",), "ʃ": ("sh",),
    "t": ("t",), "ɾ": ("t",), "ʔ": ("t",), "θ": ("th",), "v": ("v",), "w": ("w",), "ʍ": ("w",), "j": ("y",),
    "z": ("z",), "ʒ": ("zh",),
}  # fmt: skip


def espeak(word: str) -> Phones:
    """The phones that espeak-ng's American voice gives a word: a fall-back for names, guessed by rule.

    Raises:
        InputError: the program is not installed, or says nothing that ARPAbet can write.
    """
    import shutil
    import subprocess

    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError(f"{word!r} is not in the pronouncing dictionary, and the program espeak-ng is not installed.")
    try:
        # After "--" a word is a word, whatever it begins with.
        said = subprocess.run(
            [program, "-q", "--ipa", "-v", "en-us", "--", word],
            capture_output=True, text=True, encoding="utf-8", timeout=10,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{word!r}: espeak-ng gave no answer within 10 seconds.") from None
    try:
        phones = from_ipa(said.stdout)
    except InputError as error:
        raise InputError(f"{word!r}: of what espeak-ng says, {error}") from None
    if said.returncode or not phones:
        raise InputError(f"{word!r}: espeak-ng does not say how it is spoken.")
    return phones


def from_ipa(ipa: str) -> Phones:
    """ARPAbet for a transcription of English in IPA, the longest match first; stress and length are dropped."""
    plain = re.sub(r"[ˈˌː‿͡\s]", "", unicodedata.normalize("NFC", ipa))
    phones: list[str] = []
    at = 0
    while at < len(plain):
        match = next((plain[at : at + n] for n in (3, 2, 1) if plain[at : at + n] in _IPA), None)
        if match is None:
            raise InputError(f"{plain[at]!r} in {ipa.strip()!r} has no phone in ARPAbet.")
        for phone in _IPA[match]:
            if phone != "r" or phones[-1:] != ["er"]:  # er holds its own r, as in ɜːɹ
                phones.append(phone)
        at += len(match)
    return tuple(phones)


# --- flite --------------------------------------------------------------------------------------------------

_FLITE = {"ax": "ah", "axr": "er", "nx": "n", "dx": "t", "pau": PAUSE, "h#": PAUSE, "brth": BREATH}
_FLITE_PAIRS: dict[str, Phones] = {"en": ("ah", "n"), "em": ("ah", "m"), "el": ("ah", "l")}


def from_flite(phone: str) -> Phones:
    """A phone of flite's American voices as ours; a syllabic consonant is two phones."""
    if phone in _FLITE_PAIRS:
        return _FLITE_PAIRS[phone]
    ours = _FLITE.get(phone, phone)
    if ours not in ARPABET and ours not in SILENCES:
        raise InputError(f"flite says {phone!r}, which has no phone in ARPAbet.")
    return (ours,)
