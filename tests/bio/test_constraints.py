"""Constraints: their lattices against brute force and biopython, what is refused, and samples that all hold."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from Bio.Data import IUPACData
from Bio.Seq import Seq
from Bio.SeqUtils import gc_fraction, nt_search
from hypothesis import given, settings
from torch import Tensor

from degauss.bio import constraints as room
from degauss.bio.alphabets import DNA, PROTEIN
from degauss.bio.constraints import letters_of, parse_constraints
from degauss.bio.motif_automata import containing, without
from degauss.bio.windows import Window
from degauss.core import InputError, Noise
from degauss.core.jump import Absorbing, automaton, sample_tokens
from degauss.core.jump.constrained import constrained, draw_accepted
from degauss.core.jump.oracle import sequences
from degauss.core.posterior import Categorical

L = 6
ALL = sequences(4, L)
TEXTS = DNA.decode(ALL)
DOUBLE = torch.float64


def random_net(x: Tensor, t: Tensor, /, **cond: Any) -> Categorical:
    """Logits that depend on the state: a fixed random number for each position, token and left neighbour."""
    u = Noise(7, (0,)).uniform(torch.empty(1, x.shape[1], 6, 4, dtype=DOUBLE))[0]
    left = torch.cat([torch.full_like(x[:, :1], 5), x[:, :-1]], 1)
    return Categorical(3 * u[torch.arange(x.shape[1]), left])


def accepted(length: int = L, **request: Any) -> set[str]:
    lattice = parse_constraints(**request).lattice(length)
    return {text for text, yes in zip(TEXTS, lattice.accepts(ALL).tolist(), strict=True) if yes}


def search(motif: str, text: str) -> list[int]:
    """Biopython's search for an IUPAC motif, overlaps included."""
    return nt_search(text, motif)[1:]  # type: ignore[return-value]


def both(motif: str) -> set[str]:
    return {motif, str(Seq(motif).reverse_complement())}


# Each against brute force over all sequences of 6 bases


def test_iupac_letters_are_biopythons() -> None:
    for letter, bases in IUPACData.ambiguous_dna_values.items():
        if letter != "X":
            assert set(letters_of(letter, DNA)) == set(bases)
    assert letters_of("U", DNA) == ""
    assert letters_of("B", PROTEIN) == "DN"


MOTIFS = st.text("ACGTRYSWN", min_size=1, max_size=4)


@given(MOTIFS)
@settings(max_examples=12)
def test_forbidden_motifs(motif: str) -> None:
    expected = {text for text in TEXTS if not any(search(word, text) for word in both(motif))}
    if not expected:
        with pytest.raises(InputError, match=f"meets the constraint forbid {motif}"):
            accepted(forbid=[motif])
    else:
        assert accepted(forbid=[motif]) == expected


@given(MOTIFS)
@settings(max_examples=12)
def test_required_motifs(motif: str) -> None:
    assert accepted(require=[motif]) == {text for text in TEXTS if any(search(word, text) for word in both(motif))}


@pytest.mark.parametrize("motif", ["GGA", "ACGT", "ANT"])
def test_one_strand(motif: str) -> None:
    forward = {text for text in TEXTS if search(motif, text)}
    reverse = {text for text in TEXTS if search(str(Seq(motif).reverse_complement()), text)}
    assert accepted(require=[f"{motif}:+"]) == forward
    assert accepted(require=[f"{motif}:-"]) == reverse
    assert accepted(forbid=[f"{motif}:+"]) == set(TEXTS) - forward
    assert accepted(forbid=[f"{motif}:-"]) == set(TEXTS) - reverse
    assert accepted(require=[f"{motif}:+,{motif}:-"]) == forward & reverse
    assert accepted(require=[motif]) == forward | reverse


def test_overlapping_motifs() -> None:
    """Motifs inside each other, and a motif whose failed beginning is the beginning of another."""
    got = accepted(require=["ACACG:+", "CAC:+"], forbid=["ACG:-", "CACC:+"])
    assert got == {t for t in TEXTS if "ACACG" in t and "CGT" not in t and "CACC" not in t}
    assert accepted(require=["AA:+"], forbid=["AAA:+"]) == {
        t for t in TEXTS if re.search("(?<!A)AA(?!A)", t) and "AAA" not in t
    }


@pytest.mark.parametrize("most", [1, 2, 4])
def test_homopolymers(most: int) -> None:
    assert accepted(max_homopolymer=most) == {t for t in TEXTS if not re.search(rf"(.)\1{{{most}}}", t)}


@pytest.mark.parametrize(("text", "low", "high"), [(".4-.6", 0.4, 0.6), ("0.5-0.5", 0.5, 0.5), ("0-.25", 0, 0.25)])
def test_composition(text: str, low: float, high: float) -> None:
    assert accepted(gc=text) == {t for t in TEXTS if low <= gc_fraction(t) <= high}


@pytest.mark.parametrize("window", ["4:.25-.75", "1:0-1", "6:.5-.5", "3:.3-.4", "5:.4-1"])
def test_narrow_windows_are_exact(window: str) -> None:
    width, low, high = (float(number) for number in re.split("[:-]", window))
    w = int(width)
    expected = {t for t in TEXTS if all(low <= gc_fraction(t[i : i + w]) <= high for i in range(L - w + 1))}
    assert accepted(gc_window=[window]) == expected


def test_fixed_letters_count_from_one() -> None:
    assert accepted(fix=["1:AC", "5:RN"]) == {t for t in TEXTS if t.startswith("AC") and t[4] in "AG"}


def test_lower_case_and_lists() -> None:
    assert accepted(forbid=["ac,gg"]) == accepted(forbid=["AC", "GG"])


def test_nothing_asked_is_nothing_forbidden() -> None:
    assert accepted() == set(TEXTS)
    assert parse_constraints().violations("ACGT") == []


def test_all_sequences_of_eight_bases() -> None:
    """Three constraints at once, over all 65,536."""
    x = sequences(4, 8)
    lattice = parse_constraints(forbid=["GATC", "ANA"], require=["CANNTG"], max_homopolymer=2).lattice(8)
    good = [bool(re.search("CA..TG", t) and not re.search(r"GATC|A.A|T.T|(.)\1\1", t)) for t in DNA.decode(x)]
    assert 0 < sum(good) < 1000
    assert lattice.accepts(x).tolist() == good


# Wide windows


@pytest.mark.parametrize(("low", "high"), [(1, 4), (2, 4), (0, 3), (3, 5), (2, 3)])
def test_sufficient_conditions_are_sufficient(low: int, high: int) -> None:
    """Over all sequences of 0 and 1: every one that they accept has good windows, and the looser accepts more."""
    width, length = 5, 13
    x = sequences(2, length)
    total = torch.nn.functional.pad(x.cumsum(1), (1, 0))
    counts = total[:, width:] - total[:, :-width]
    good = ((counts >= low) & (counts <= high)).all(1)
    window = Window(width, low, high, (1,), 2)
    assert torch.equal(window.exact(length).accepts(x), good)
    kept = [
        lattice.accepts(x)
        for lattice in (window.buckets(length, 5), window.buckets(length, 2), window.corridor(length))
    ]
    for some in kept:
        assert not bool((some & ~good).any())
    # In a range of two counts there is no room for slack.
    assert all(bool(some.any()) for some in kept) == (high - low > 1)


def test_wide_windows_keep_most_sequences() -> None:
    """Among random sequences of 200 bases, 94 in 100 have windows of 50 from .3 to .7; buckets keep 3 of 4 of these."""
    window, length, n = Window(50, 15, 35, (1, 2), 4), 200, 4000
    x = (Noise(0, range(n)).uniform(torch.empty(n, length)) * 4).long()
    total = torch.nn.functional.pad(((x == 1) | (x == 2)).long().cumsum(1), (1, 0))
    counts = total[:, 50:] - total[:, :-50]
    good = ((counts >= 15) & (counts <= 35)).all(1)
    kept = window.buckets(length, 5).accepts(x)
    assert not bool((kept & ~good).any())
    assert float(good.double().mean()) == pytest.approx(0.94, abs=0.02)
    assert float(kept.double().mean()) > 0.68
    assert float(window.corridor(length).accepts(x).double().mean()) < 0.25


def test_a_stricter_form_where_the_looser_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = parse_constraints(gc_window=["20:.2-.8"], max_homopolymer=3)
    loose = asked.lattice(40)
    monkeypatch.setattr(automaton, "MOST_STATES", loose.states - 1)
    strict = asked.lattice(40)
    assert not strict.empty
    assert strict.log_count < loose.log_count


# Refusals


@pytest.mark.parametrize(
    ("length", "request_", "sentence"),
    [
        (20, {"fix": ["1:AAAAAA", "9:TTT"], "max_homopolymer": 4, "gc": ".2-.8"},
         "no sequence of 20 letters meets these constraints together: fix 1:AAAAAA, max-homopolymer 4."),
        (20, {"fix": ["3:ACGT", "5:TT"], "forbid": ["GGG"]}, "together: fix 3:ACGT, fix 5:TT."),
        (12, {"require": ["GAATTC"], "forbid": ["EcoRI", "BsaI"]}, "together: require GAATTC, forbid EcoRI."),
        (12, {"require": ["GATAAG"], "forbid": ["CTTATC"]}, "together: require GATAAG, forbid CTTATC."),
        (9, {"protein": "MWM", "forbid": ["TGG:+"]}, "together: protein MWM, forbid TGG:+."),
        (6, {"protein": "KN", "gc": ".9-1"}, "together: protein KN, gc .9-1."),
        (8, {"require": ["GATAAG", "TTTTT"]}, "together: require GATAAG, require TTTTT."),
        (5, {"require": ["GATAAG"]}, "no sequence of 5 letters meets the constraint require GATAAG."),
        (5, {"forbid": ["N"]}, "no sequence of 5 letters meets the constraint forbid N."),
        (60, {"fix": ["1:" + "A" * 40], "gc_window": ["50:.3-.7"]}, "wide windows are held by a stricter rule"),
        (20, {"fix": ["18:ACGT"]}, "fix 18:ACGT ends at position 21, but the sequence has 20."),
        (8, {"protein": "MKV"}, "3 codons from position 1 end at position 9, but the sequence has 8."),
        (10, {"gc": ".42-.44"}, "gc .42-.44 cannot be met: no number of G and C among 10 bases"),
        (10, {"gc_window": ["12:.4-.6"]}, "the window is wider than the sequence, which has 10 bases."),
        (0, {}, "length must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused_with_its_reason(length: int, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        parse_constraints(**request_).lattice(length)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"fix": ["TATA"]}, "fix must be like 12:TATAAA, with a position from 1, but is 'TATA'"),
        ({"fix": ["0:TATA"]}, "with a position from 1, but is '0:TATA'"),
        ({"fix": ["3:TAJA"]}, "fix 3:TAJA has the letter 'J'; expected letters of DNA among ACGT"),
        ({"fix": ["3:"]}, "fix 3: has no letters"),
        ({"require": ["EcoR1"]}, "require: 'EcoR1' is neither a motif in the letters ACGTBDHKMNRSVWY nor a restriction "
                                 "enzyme (did you mean 'EcoRI'?)."),
        ({"forbid": ["NotII"]}, "did you mean 'NotI'?"),
        ({"forbid": [""]}, "forbid: '' is neither"),
        ({"forbid": ["GATC:x"]}, "forbid GATC:x: the strand must be + or -, but is 'x'."),
        ({"gc": "40-60"}, "gc must be a range of shares from 0 to 1 such as .4-.6, but is '40-60'."),
        ({"gc": ".6-.4"}, "but is '.6-.4'"),
        ({"gc": "half"}, "but is 'half'"),
        ({"gc_window": ["50"]}, "gc-window must be a width and a range such as 50:.3-.7, but is '50'."),
        ({"gc_window": ["50:.3"]}, "gc-window 50:.3: the range must be a range of shares"),
        ({"max_homopolymer": 0}, "max-homopolymer must be at least 1"),
        ({"protein": "MJM"}, "the protein has 'J' at position 2"),
        ({"protein": ""}, "the protein is empty"),
        ({"protein": "0:MK"}, "protein must be like 13:MKV"),
        ({"protein": "MK", "codon_table": "Bacteria"}, "no codon table 'Bacteria' (did you mean 'bacterial'?)"),
        ({"gc": ".4-.6", "alphabet": PROTEIN}, "are constraints on DNA, but the sequences are protein."),
        ({"forbid": ["EcoRI"], "alphabet": PROTEIN}, "forbid EcoRI has the letter 'O'; expected letters of protein"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_read_are_refused(request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        parse_constraints(**request_)


def test_too_many_states_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton, "MOST_STATES", 500)
    with pytest.raises(InputError, match=r"constraints gc \.2-\.8, require GATC, .*cannot be enforced together on 30"):
        parse_constraints(gc=".2-.8", require=["GATC"], max_homopolymer=1).lattice(30)


# The independent check


def test_violations_say_what_and_where() -> None:
    asked = parse_constraints(
        fix=["2:GG"], require=["TATA"], forbid=["BsaI"], gc=".5-.6", gc_window=["4:.25-.75"], max_homopolymer=3,
        protein="4:MK",
    )  # fmt: skip
    assert asked.violations("aggaaaagagacc") == [
        "protein 4:MK: amino acid 1 is K, not M",
        "protein 4:MK: amino acid 2 is R, not K",
        "gc .5-.6: is 0.462",
        "gc-window 4:.25-.75: is 0.000 at positions 4-7",
        "max-homopolymer 3: 4 times A from position 4",
        "require TATA: not found",
        "forbid BsaI: GAGACC at position 8 (-)",
    ]
    assert parse_constraints(fix=["2:GG"]).violations("AG") == ["fix 2:GG: position 3 is beyond the end, not G"]
    assert parse_constraints(gc=".5-.6").violations("AAAC") == ["gc .5-.6: is 0.250"]
    assert parse_constraints(protein="MK").violations("ATGA") == ["protein MK: amino acid 2 is -, not K"]


PIECES = st.text("ACGTWN", min_size=1, max_size=3)


def requests() -> st.SearchStrategy[dict[str, Any]]:
    """Constraints that do not contradict each other too often, on 24 bases."""
    return st.fixed_dictionaries(
        {},
        optional={
            "fix": st.lists(st.builds("{}:{}".format, st.integers(1, 20), PIECES), max_size=2),
            "require": st.lists(st.sampled_from(["GATA", "TGAC", "CANNTG", "CACGTG", "TTT:-"]), max_size=2),
            "forbid": st.lists(st.sampled_from(["BsaI", "EcoRI", "HaeIII", "CG", "ATG:+", "SSS"]), max_size=3),
            "gc": st.sampled_from([".3-.6", ".4-.6", "0.5-0.5"]),
            "gc_window": st.lists(st.sampled_from(["6:.1-.9", "15:.3-.7", "20:.25-.75"]), max_size=2),
            "max_homopolymer": st.integers(2, 5),
            "protein": st.sampled_from(["MKVL", "4:MXW*", "SSRRLL"]),
        },
    )  # fmt: skip


@given(requests())
@settings(max_examples=20)
def test_every_sample_meets_every_constraint(request_: dict[str, Any]) -> None:
    asked, length, process = parse_constraints(**request_), 24, Absorbing(4)
    try:
        lattice = asked.lattice(length)
    except InputError as error:
        assert "meets" in str(error)  # noqa: PT017
        return
    x = sample_tokens(random_net, process, (8, length), solver=constrained(lattice), steps=3, seed=1)
    for text in DNA.decode(x):
        assert asked.violations(text) == []


@given(requests())
@settings(max_examples=15)
def test_the_check_and_the_lattice_agree(request_: dict[str, Any]) -> None:
    """Also about sequences that are not samples: near ones, with one base changed. Wide windows may be stricter."""
    asked, length = parse_constraints(**request_), 24
    try:
        lattice = asked.lattice(length)
    except InputError:
        return
    n = 30
    even = torch.full((n, length, 4), 0.25, dtype=DOUBLE)
    noise = Noise(3, range(n))
    x = draw_accepted(even, lattice, noise.uniform(even[..., 0])).tokens
    spot = (noise.uniform(torch.empty(n), 1) * length).long()
    changed = x.clone()
    changed[torch.arange(n), spot] = (changed[torch.arange(n), spot] + 1) % 4
    exact = not any(isinstance(part, room.Sliding) and part.stricter for part in asked.parts)
    for text, inside in zip(DNA.decode(changed), lattice.accepts(changed).tolist(), strict=True):
        assert not (inside and asked.violations(text))
        if exact:
            assert inside == (not asked.violations(text))


def test_without_the_lattice_the_check_finds_faults() -> None:
    asked = parse_constraints(require=["GATAAG"], gc=".45-.55", max_homopolymer=3)
    x = (Noise(0, range(50)).uniform(torch.empty(50, 60)) * 4).long()
    assert sum(bool(asked.violations(text)) for text in DNA.decode(x)) > 40


def test_protein_constraints() -> None:
    asked = parse_constraints(fix=["1:M"], forbid=["NXS", "NXT"], require=["BZ"], max_homopolymer=2, alphabet=PROTEIN)
    lattice = asked.lattice(30)
    flat: Any = lambda x, t: Categorical(torch.zeros(*x.shape, 20))  # noqa: E731
    x = sample_tokens(flat, Absorbing(20), (40, 30), solver=constrained(lattice), steps=4)
    for text in PROTEIN.decode(x):
        assert asked.violations(text) == []
        assert text[0] == "M"
        assert not re.search("N.[ST]", text)
        assert re.search("[DN][EQ]", text)
        assert not re.search(r"(.)\1\1", text)


# Motifs


def test_a_motif_has_places() -> None:
    with pytest.raises(ValueError, match="at least one place"):
        containing([()], 4)


def test_palindromes_are_looked_for_once() -> None:
    assert len(parse_constraints(forbid=["EcoRI"]).parts[0].sites.words) == 1  # type: ignore[attr-defined]
    assert len(parse_constraints(forbid=["BsaI"]).parts[0].sites.words) == 2  # type: ignore[attr-defined]


def test_states_are_those_of_the_failure_function() -> None:
    """For plain words the sets of begun motifs are Aho and Corasick's: one state for each beginning."""
    words = ["GATTACA", "TTAC", "ACAT"]
    motifs = [tuple(frozenset([DNA.letters.index(letter)]) for letter in word) for word in words]
    beginnings = {word[:k] for word in words for k in range(len(word))}
    # A beginning that ends with a whole word is never reached.
    live = {b for b in beginnings if not any(word in b for word in words)}
    assert len(without(motifs, 4).table) == len(live)
