"""The card: every score beside its floor, in numbers, in words and on a page that needs nothing else."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from degauss.core.errors import InputError
from degauss.timeseries.card import MEANING, Card, Comparison, Scoring, make_card
from degauss.timeseries.card_page import page, write_card
from degauss.timeseries.copies import CopyCheck
from degauss.timeseries.generation_data import Split, Units
from degauss.timeseries.posthoc import Judge

QUICK = Scoring(repeats=2, windows=150, judge=Judge(hidden=4, steps=10, batch=64))
NAMES = ("a <script>alert(1)</script> & b", "cost in $ and $")


def pairs(count: int, seed: int, *, r: float = 0.9) -> np.ndarray:
    """Windows of two series of correlated noise, in units of ten."""
    z = np.random.default_rng(seed).normal(size=(count, 12, 2))
    z[:, :, 1] = r * z[:, :, 0] + np.sqrt(1 - r**2) * z[:, :, 1]
    return 10 * z + 50


def card_of(synthetic: np.ndarray, names: tuple[str, ...] = NAMES) -> Card:
    features = slice(0, len(names))
    real = Split(pairs(400, 0)[..., features], pairs(150, 1)[..., features])
    return make_card(real, synthetic[..., features], Units.of(real.train, names), scoring=QUICK, facts={"steps": 7})


@pytest.fixture(scope="module")
def good() -> Card:
    return card_of(pairs(300, 2))


@pytest.fixture(scope="module")
def uncorrelated() -> Card:
    return card_of(pairs(300, 2, r=0.0))


def of(card: Card, score: str, against: str = "held-out") -> Comparison:
    return next(c for c in card.comparisons if (c.score, c.against) == (score, against))


def test_real_windows_are_at_the_floor(good):
    assert [(c.score, c.against) for c in good.comparisons] == [
        (score, against) for score in MEANING for against in ("training", "held-out")
    ]
    for score in ("FDDS", "VDS"):
        found = of(good, score)
        assert max(found.synthetic) < 4 * max(found.floor)
    assert not good.copies.flagged


def test_lost_correlations_are_above_the_floor(uncorrelated):
    for against in ("training", "held-out"):
        found = of(uncorrelated, "FDDS", against)
        assert found.above
        assert min(found.synthetic) > 20 * max(found.floor)
    assert max(of(uncorrelated, "VDS").synthetic) < 4 * max(of(uncorrelated, "VDS").floor)
    assert any(re.match(r"FDDS against held-out windows is \S+, above the floor of", s) for s in uncorrelated.words())


def test_as_many_windows_on_every_side(good):
    """The biased MMD of few windows is higher: a floor of other numbers would be no floor."""
    assert of(good, "FDDS", "training").windows == of(good, "FDDS").windows == 150
    few = card_of(pairs(40, 2))
    assert {c.windows for c in few.comparisons} == {40}


def test_words_follow_the_numbers():
    found = Comparison("VDS", "training", 10, (3.0, 1.0, 2.0), (0.5, 0.4, 0.6))
    assert found.above
    assert found.words() == (
        "VDS against training windows is 2, above the floor of 0.5 that real windows reach, 4 times it."
    )
    level = replace(found, floor=(0.5, 2.0, 0.1))
    assert not level.above
    assert level.words() == "VDS against training windows is 2, at the floor of 0.5 that real windows reach."
    assert "times" not in replace(found, floor=(0.0, 0.0, 0.1)).words()


def test_copies_are_in_the_words(good):
    copied = replace(good, copies=CopyCheck(np.zeros(5), np.ones(5)))
    assert "are copies" in copied.words()[-1]
    assert "flagged" in page(copied)


# --- the page ---


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else(good, tmp_path):
    write_card(tmp_path / "new" / "card.html", good)
    html = (tmp_path / "new" / "card.html").read_text(encoding="utf-8")
    parsed = Tags()
    parsed.feed(html)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    pictures = [attributes["src"] or "" for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == 4
    for picture in pictures:
        head, data = picture.split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not re.search(r"https?:|url\(|@import", re.sub(r'src="data:[^"]*"', "", html))
    for sentence in good.words():
        assert sentence in parsed.text
    assert '"steps": 7' in parsed.text


def test_the_numbers_beside_it_are_the_same(good, tmp_path):
    write_card(tmp_path / "card.html", good)
    numbers = json.loads((tmp_path / "card.json").read_text())
    assert numbers["words"] == good.words()
    assert numbers["features"] == list(NAMES)
    assert numbers["windows"] == {"training": 400, "held-out": 150, "synthetic": 300}
    assert numbers["training"] == {"steps": 7}
    for found, comparison in zip(numbers["scores"], good.comparisons, strict=True):
        assert found["synthetic"] == list(comparison.synthetic)
        assert found["floor"] == list(comparison.floor)
        assert found["above_floor"] == comparison.above
    assert numbers["copies"]["near"] == good.copies.near


def test_one_series_has_no_correlations():
    card = card_of(pairs(100, 2), ("only",))
    assert "FDDS" not in {c.score for c in card.comparisons}
    assert "Correlations" not in page(card)


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    real = Split(pairs(100, 0), pairs(30, 1))
    quick = replace(QUICK, repeats=1, judge=Judge(hidden=2, steps=2))
    make_card(real, pairs(50, 2), Units.of(real.train, ("a", "b")), scoring=quick, report=lambda *now: told.append(now))
    assert told == [(k, 8) for k in range(1, 9)]


def test_cards_that_cannot_be(good):
    real = Split(pairs(400, 0), pairs(150, 1))
    units = Units.of(real.train, NAMES)
    with pytest.raises(InputError, match=r"synthetic windows are \(11, 2\); expected \(12, 2\)"):
        make_card(real, pairs(50, 2)[:, 1:], units)
    with pytest.raises(InputError, match="9 windows on one side"):
        make_card(real, pairs(9, 2), units, scoring=QUICK)
    with pytest.raises(InputError, match="repeats must be at least 1"):
        Scoring(repeats=0)
    with pytest.raises(InputError, match="windows must be at least 10"):
        Scoring(windows=9)
