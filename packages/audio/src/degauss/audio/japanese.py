r"""Japanese syllables as phones, from kana or romaji: か, カ and ka are `k a`.

The inventory is that of the mono-phone labels of Japanese singing corpora and of most voicebanks: the vowels
a i u e o, the moraic nasal `N` (ん), the closure `cl` (っ), and consonants in Hepburn's spelling, palatalised ones
as one phone (kya: `ky a`, sha: `sh a`, cha: `ch a`, tsu: `ts u`, fu: `f u`, ji: `j i`). A long mark (ー) goes on
with the vowel before; la is sung as ra. は, へ and を are read ha, he and o: whether a particle is meant, spelling
does not tell.
"""

from __future__ import annotations

import re
import unicodedata

from degauss.core.errors import InputError

VOWELS = ("a", "i", "u", "e", "o")
NASAL, CLOSURE = "N", "cl"
CONSONANTS = (
    "b", "by", "ch", "d", "dy", "f", "g", "gy", "h", "hy", "j", "k", "ky", "m", "my", "n", "ny", "p", "py", "r", "ry",
    "s", "sh", "t", "ts", "ty", "v", "w", "y", "z",
)  # fmt: skip
INVENTORY = (*VOWELS, NASAL, CLOSURE, *CONSONANTS)

# Kana by rows, in the order a i u e o; "." where the row has a gap.
_ROWS = """
ア イ ウ エ オ|a i u e o
カ キ ク ケ コ|ka ki ku ke ko
ガ ギ グ ゲ ゴ|ga gi gu ge go
サ シ ス セ ソ|sa shi su se so
ザ ジ ズ ゼ ゾ|za ji zu ze zo
タ チ ツ テ ト|ta chi tsu te to
ダ ヂ ヅ デ ド|da ji zu de do
ナ ニ ヌ ネ ノ|na ni nu ne no
ハ ヒ フ ヘ ホ|ha hi fu he ho
バ ビ ブ ベ ボ|ba bi bu be bo
パ ピ プ ペ ポ|pa pi pu pe po
マ ミ ム メ モ|ma mi mu me mo
ヤ ユ ヨ|ya yu yo
ラ リ ル レ ロ|ra ri ru re ro
ワ ヲ ン ヴ ヰ ヱ|wa o n' vu i e
キャ キュ キョ ギャ ギュ ギョ|kya kyu kyo gya gyu gyo
シャ シュ ショ シェ ジャ ジュ ジョ ジェ|sha shu sho she ja ju jo je
チャ チュ チョ チェ ヂャ ヂュ ヂョ|cha chu cho che ja ju jo
ニャ ニュ ニョ ヒャ ヒュ ヒョ|nya nyu nyo hya hyu hyo
ビャ ビュ ビョ ピャ ピュ ピョ|bya byu byo pya pyu pyo
ミャ ミュ ミョ リャ リュ リョ|mya myu myo rya ryu ryo
ファ フィ フェ フォ フュ|fa fi fe fo fyu
ティ ディ トゥ ドゥ テュ デュ|ti di tu du tyu dyu
ウィ ウェ ウォ イェ ツァ ツィ ツェ ツォ|wi we wo ye tsa tsi tse tso
ヴァ ヴィ ヴェ ヴォ スィ ズィ|va vi ve vo si zi
ァ ィ ゥ ェ ォ ッ|a i u e o cl
"""


def _table() -> dict[str, str]:
    pairs: dict[str, str] = {}
    for row in _ROWS.strip().splitlines():
        kana, romaji = row.split("|")
        pairs |= dict(zip(kana.split(), romaji.split(), strict=True))
    return pairs


_KANA = _table()
_ROMAJI = re.compile(
    r"""(?P<closure>cl|(?P<twice>[kstpcgdbzjfhrm])(?=(?P=twice))|t(?=ch))
      | (?P<consonant>ky|gy|ny|hy|by|py|my|ry|ty|dy|sh|ch|ts|fy|[kgsztdnhbpmyrwfvjl])?(?P<vowel>[aiueo])
      | (?P<nasal>n'?)""",
    re.VERBOSE,
)

_SAME = {"fy": "f", "l": "r"}


def phones_of(lyric: str) -> tuple[str, ...]:
    """The phones of one or more syllables in hiragana, katakana or romaji.

    Raises:
        InputError: it holds anything else (kanji have no one reading), or nothing.
    """
    rest = romaji(lyric)
    phones: list[str] = []
    while rest:
        found = _ROMAJI.match(rest)
        if found is None:
            raise InputError(f"{lyric!r} is not a Japanese syllable in kana or romaji (at {rest!r}).")
        if found["closure"]:
            phones.append(CLOSURE)
        elif found["nasal"]:
            phones.append(NASAL)
        else:
            consonant = _SAME.get(found["consonant"], found["consonant"])
            phones += [consonant, found["vowel"]] if consonant else [found["vowel"]]
        rest = rest[found.end() :]
    if not phones:
        raise InputError(f"{lyric!r} is not a Japanese syllable; expected kana or romaji.")
    return tuple(phones)


def romaji(lyric: str) -> str:
    """Kana and romaji as romaji in lower case, spaces and long marks dropped; N alone is n'."""
    text = unicodedata.normalize("NFKC", lyric).strip()
    if text == "N":
        return "n'"
    written: list[str] = []
    at = 0
    text = "".join(_katakana(c) for c in text if not c.isspace() and c not in "ー〜~")
    while at < len(text):
        size = 2 if text[at : at + 2] in _KANA else 1
        written.append(_KANA.get(text[at : at + size], text[at : at + size].lower()))
        at += size
    return "".join(written)


def _katakana(character: str) -> str:
    """Hiragana moved to katakana, anything else as it is."""
    code = ord(character)
    return chr(code + 0x60) if 0x3041 <= code <= 0x3096 else character
