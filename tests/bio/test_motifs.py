"""Motifs: scores equal biopython's on both strands, hits are as rare as they say, and soft scores are expected ones."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA, reverse_complement
from degauss.bio.motifs import Motif, consensus, find_motif, hits, one_hot, read_motifs, scan, threshold
from degauss.core.errors import InputError

SKEWED = (0.3, 0.2, 0.2, 0.3)


def random_motif(width: int, seed: int = 0, background: tuple[float, ...] = (0.25,) * 4) -> Motif:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(width, 4, generator=generator, dtype=torch.float64).pow(4)
    return Motif(f"random{width}", tuple(map(tuple, (rows / rows.sum(1, keepdim=True)).tolist())), background)


def random_tokens(n: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))


def of_biopython(motif: Motif):
    """The same matrix of log-odds, computed by biopython from the same probabilities."""
    from Bio import motifs

    floored = {
        letter: [0.995 * row[i] + 0.005 * motif.background[i] for row in motif.probabilities]
        for i, letter in enumerate("ACGT")
    }
    made = motifs.Motif(alphabet="ACGT", counts=floored)
    assert made.counts is not None
    return made.counts.normalize(0).log_odds(dict(zip("ACGT", motif.background, strict=True)))


@pytest.mark.parametrize("width", [1, 6, 11])
@pytest.mark.parametrize("background", [(0.25,) * 4, SKEWED])
def test_scores_are_biopythons_on_both_strands(width, background):
    motif, tokens = random_motif(width, background=background), random_tokens(5, 60)
    pssm = of_biopython(motif)
    scores = scan(motif, one_hot(tokens))
    for row, sequence in zip(scores, DNA.decode(tokens), strict=True):
        for strand, matrix in enumerate((pssm, pssm.reverse_complement())):
            wanted = torch.tensor(matrix.calculate(sequence)).reshape(-1)
            torch.testing.assert_close(row[strand], wanted, atol=1e-4, rtol=1e-5)


def test_sites_are_where_biopython_finds_them():
    motif, tokens = random_motif(8, 3), random_tokens(1, 400)
    limit = threshold(motif, 0.05)
    scores = scan(motif, one_hot(tokens))[0]
    ours = {(int(i), int(strand)) for strand, i in (scores >= limit).nonzero().tolist()}
    pssm = of_biopython(motif)
    found = {(at % 400, int(at < 0)) for at, _ in pssm.search(DNA.decode(tokens)[0], threshold=limit)}
    assert ours == found
    assert len(ours) > 10


def test_the_other_strand_scores_what_the_reverse_complement_does():
    motif, tokens = random_motif(7), random_tokens(3, 30)
    there, back = scan(motif, one_hot(tokens)), scan(motif, one_hot(reverse_complement(tokens)))
    torch.testing.assert_close(there[:, 1], back[:, 0].flip(-1))


def test_soft_scores_are_expected_scores():
    """Of a mixture of two sequences at one position, by linearity."""
    motif, tokens = random_motif(5), random_tokens(2, 20)
    tokens[1] = tokens[0]
    tokens[1, 9] = (tokens[0, 9] + 1) % 4
    hard = scan(motif, one_hot(tokens))
    soft = scan(motif, one_hot(tokens).mean(0, keepdim=True))
    torch.testing.assert_close(soft[0], hard.mean(0))


@pytest.mark.parametrize("p", [0.5, 0.02, 1e-3])
@pytest.mark.parametrize("background", [(0.25,) * 4, SKEWED])
def test_a_threshold_is_the_least_score_that_is_rare_enough(p, background):
    """Against all windows there are, with their probabilities; scores are rounded as the threshold's are."""
    motif = random_motif(5, 1, background)
    words = torch.tensor(list(itertools.product(range(4), repeat=5)))
    steps = (motif.log_odds() * 200).round()
    score = steps[torch.arange(5), words].sum(1) / 200
    chance = torch.tensor(background, dtype=torch.float64)[words].prod(1)
    limit = threshold(motif, p)
    assert float(chance[score >= limit - 1e-9].sum()) <= p + 1e-9
    below = float(score[score < limit - 1e-9].max())
    assert float(chance[score >= below - 1e-9].sum()) > p
    assert int(hits([motif], words, p).sum()) == int((score >= limit - 1e-9).sum()) + int(
        (steps.flip(0, 1)[torch.arange(5), words].sum(1) / 200 >= limit - 1e-9).sum()
    )


def test_a_threshold_is_near_that_of_biopython():
    motif = random_motif(9, 2)
    wanted = of_biopython(motif).distribution(precision=10**3).threshold_fpr(1e-3)
    assert threshold(motif, 1e-3) == pytest.approx(wanted, abs=0.1)


def test_random_dna_has_as_many_hits_as_the_probability_says():
    motif = random_motif(10, 4)
    tokens = random_tokens(400, 209)
    assert float(hits([motif], tokens, 5e-3).sum()) / (400 * 200 * 2) == pytest.approx(5e-3, rel=0.15)


def test_hits_of_motifs_of_several_widths_stay_in_their_columns():
    motifs = [random_motif(8, 1), random_motif(6, 2), random_motif(8, 3), random_motif(300, 4)]
    tokens = random_tokens(7, 100)
    together = hits(motifs, tokens, 0.01)
    alone = torch.cat([hits([motif], tokens, 0.01) for motif in motifs], 1)
    assert torch.equal(together, alone)
    assert together[:, :3].sum() > 0
    assert not together[:, 3].any(), "wider than the sequences"


def test_a_motif_too_short_to_be_significant_has_no_hit():
    motif = consensus("GATA")
    assert math.isinf(threshold(motif))
    assert not hits([motif], DNA.encode(["GATAGATAGATA"])).any()


@given(st.text(alphabet="ACGTURYSWKMBDHVN", min_size=1, max_size=12))
def test_a_consensus_is_that_of_biopython(letters):
    from Bio.Data.IUPACData import ambiguous_dna_values

    for row, letter in zip(consensus(letters).probabilities, letters.replace("U", "T"), strict=True):
        assert {v for v, p in zip("ACGT", row, strict=True) if p} == set(ambiguous_dna_values[letter])
        assert sum(row) == pytest.approx(1)


def test_a_consensus_is_found_where_it_is_on_either_strand():
    sequence = "CCCCCTGASTCACCCCC".replace("S", "G")
    for text in (sequence, DNA.decode(reverse_complement(DNA.encode(sequence)))[0]):
        scores = scan(consensus("TGASTCA"), one_hot(DNA.encode([text])))
        assert set(scores.amax(1).argmax(-1).tolist()) == {5}


def test_it_names_what_is_no_iupac_letter():
    with pytest.raises(InputError, match="'Z' at place 3"):
        consensus("GAZA")


def test_a_sequence_shorter_than_the_motif_is_refused():
    with pytest.raises(InputError, match=r"has 6 places, but the sequences have 4 letters"):
        scan(random_motif(6), one_hot(random_tokens(1, 4)))


@pytest.mark.parametrize("rows", [(), ((0.5, 0.5, 0.5, 0.5),), ((1.0, 0.0, 0.0),), ((math.nan, 0.5, 0.25, 0.25),)])
def test_what_is_no_distribution_is_no_motif(rows):
    with pytest.raises(InputError, match="motif odd"):
        Motif("odd", rows)


# --- collections --------------------------------------------------------------------------------------------

MEME = """MEME version 4

ALPHABET= ACGT

strands: + -

Background letter frequencies
A 0.25 C 0.25 G 0.25 T 0.25

MOTIF M1:GATA_TAL:Zinc
letter-probability matrix: alength= 4 w= 3 nsites= 1 E= 0
 0.6 0.2 0.1 0.1
 0.1 0.7 0.1 0.1

 0.25 0.25 0.25 0.25
URL BLANK

MOTIF M2:GATA:Zinc
letter-probability matrix: alength= 4 w= 1 nsites= 20 E= 0
 0.0 0.0 1.0 0.0
"""


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    path = tmp_path / "own.meme"
    path.write_text(MEME)
    return path


def test_meme_is_read_to_the_digit_where_biopython_rounds_to_sites(collection):
    first, second = read_motifs(collection)
    assert first.probabilities == ((0.6, 0.2, 0.1, 0.1), (0.1, 0.7, 0.1, 0.1), (0.25, 0.25, 0.25, 0.25))
    assert (first.name, second.width) == ("M1:GATA_TAL:Zinc", 1)
    from Bio import motifs

    with collection.open() as file:
        rounded = motifs.parse(file, "minimal")[0]
    assert rounded is not None
    assert rounded.counts is not None
    assert rounded.counts["A"][0] == 1, "the reason for a reader of our own: .6 of one site is one site"


def test_jaspar_and_pfm_are_read(tmp_path):
    (tmp_path / "a.jaspar").write_text(">MA0001.1 AGL3\nA [ 0 3 ]\nC [ 9 0 ]\nG [ 0 7 ]\nT [ 1 0 ]\n")
    (tmp_path / "b.pfm").write_text("0 3\n9 0\n0 7\n1 0\n")
    named, plain = read_motifs(tmp_path / "a.jaspar")[0], read_motifs(tmp_path / "b.pfm")[0]
    assert named.probabilities == plain.probabilities == ((0.0, 0.9, 0.0, 0.1), (0.3, 0.0, 0.7, 0.0))
    assert (named.name, plain.name) == ("MA0001.1:AGL3", "b")


def test_a_motif_is_found_by_its_name_or_a_part_of_it_and_never_by_chance(collection):
    motifs = read_motifs(collection)
    for name in ("M1:GATA_TAL:Zinc", "m1", "tal", "GATA_TAL"):
        assert find_motif(name, motifs) is motifs[0]
    with pytest.raises(InputError, match=r"may be M1:GATA_TAL:Zinc or M2:GATA:Zinc"):
        find_motif("GATA", motifs)
    with pytest.raises(InputError, match=r"no motif 'TALL' \(did you mean 'TAL'\?\) among 2"):
        find_motif("TALL", motifs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ACGT\n", "ACGU\n"), "line 3: is of alphabet ACGU"),
        (("0.7 0.1", "seven 0.1"), "line 13: is ' 0.1 seven 0.1 0.1'"),
        (("w= 3 ", ""), "line 11: does not say how wide"),
        ((" 0.0 0.0 1.0 0.0\n", ""), "ends inside motif M2:GATA:Zinc; expected 1 more"),
        (("0.6 0.2", "0.9 0.9"), "motif M1:GATA_TAL:Zinc, place 1"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(collection, change, message):
    collection.write_text(MEME.replace(*change))
    with pytest.raises(InputError, match=message):
        read_motifs(collection)


def test_what_holds_no_motif_is_refused(tmp_path):
    (tmp_path / "empty.meme").write_text("MEME version 4\n")
    (tmp_path / "words.jaspar").write_text("no motif here\n")
    for name in ("empty.meme", "words.jaspar", "missing.meme"):
        with pytest.raises(InputError, match=name):
            read_motifs(tmp_path / name)


def test_the_motifs_of_jaspar():
    from degauss.bio.datasets import motifs_path

    try:
        path = motifs_path()
    except InputError as error:
        pytest.skip(str(error))
    motifs = read_motifs(path)
    assert len(motifs) == 182
    assert find_motif("C101", motifs).name == "C101:GATA_MECOM:GATA"
    ap1 = find_motif("C036", motifs)
    assert float(scan(ap1, one_hot(DNA.encode(["AAATGAGTCATCC"]))).max()) > threshold(ap1)
