"""Rewards: by hand on letters, the same on one-hot weights, parsed from text, and refused in one sentence."""

from __future__ import annotations

import itertools
import re
from importlib.metadata import EntryPoint

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA, PROTEIN
from degauss.bio.fitness import FitnessConfig, FitnessModel
from degauss.bio.kmers import KmerModel
from degauss.bio.motifs import consensus, one_hot, threshold
from degauss.bio.predictors import Predictor, PredictorConfig
from degauss.bio.rewards import Differentiable, Term, available, evaluate, parse_reward, parse_rewards, parsing, total
from degauss.bio.rewards.composition import GC, Homopolymer
from degauss.bio.rewards.motif import MotifReward
from degauss.core.errors import InputError

dna = st.text(alphabet="ACGT", min_size=8, max_size=40)


@pytest.fixture
def folders(tmp_path):
    """A predictor of two cell types, one of a value, a k-mer model and a fitness model, all for short sequences."""
    classes = Predictor.new(PredictorConfig(("HepG2", "K562"), 20, channels=8))
    values = Predictor.new(
        PredictorConfig(("expression",), 20, "values", both_strands=False, channels=8, mean=(5.0,), spread=(2.0,))
    )
    classes.save(tmp_path / "classes")
    values.save(tmp_path / "values")
    weights = torch.linspace(-1, 1, 10, dtype=torch.float64)
    KmerModel("HepG2", 20, 2, weights, torch.tensor(0.5, dtype=torch.float64)).save(tmp_path / "kmers")
    FitnessModel.new(FitnessConfig(4, hidden=8)).save(tmp_path / "gb1")
    return tmp_path


# --- on letters ---------------------------------------------------------------------------------------------


@given(dna, st.integers(0, 10), st.integers(0, 10))
def test_gc_is_minus_the_distance_from_the_window(sequence, a, b):
    low, high = sorted((a / 10, b / 10))
    share = sum(letter in "GC" for letter in sequence) / len(sequence)
    wanted = -max(low - share, 0, share - high)
    assert float(GC(low, high)(DNA.encode([sequence]))) == pytest.approx(wanted, abs=1e-6)


@given(dna, st.integers(1, 12))
def test_homopolymer_counts_the_letters_that_are_too_many(sequence, most):
    wanted = -sum(max(len(list(run)) - most, 0) for _, run in itertools.groupby(sequence))
    assert float(Homopolymer(most)(DNA.encode([sequence]))) == pytest.approx(wanted)


def test_a_motif_scores_its_best_site_all_sites_and_their_number():
    motif = consensus("TGASTCAC")
    one, two, none = DNA.encode(["CCTGACTCACCCCCCCCCCCCC", "CCTGACTCACCCTGAGTCACCC", "C" * 22])
    tokens = torch.stack([one, two, none])
    best, occupancy, count = (MotifReward(motif, how)(tokens) for how in ("best", "occupancy", "count"))
    site = float(best[0])
    assert site == pytest.approx(float(best[1]), abs=1e-4)
    assert site > threshold(motif) > float(best[2])
    assert float(occupancy[0]) == pytest.approx(site, abs=0.01)
    assert float(occupancy[1]) == pytest.approx(site + 1, abs=0.02), "two equal sites are one bit more"
    assert float(count[2]) < 0.1
    assert float(count[1]) == pytest.approx(2 * float(count[0]), rel=0.05)


def test_fold_is_viennas_energy():
    vienna = pytest.importorskip("RNA")
    hairpin, open_ = "GGGGGGAAAACCCCCCAAAA", "A" * 20
    tokens = DNA.encode([hairpin, open_])
    energy = vienna.fold(hairpin)[1]
    assert energy < -5
    assert parse_reward("fold")(tokens).tolist() == pytest.approx([-energy, 0])
    assert parse_reward("fold:open")(tokens).tolist() == pytest.approx([energy, 0])
    assert not isinstance(parse_reward("fold"), Differentiable)
    with pytest.raises(InputError, match="reward fold must be one of 'stable', 'open'"):
        parse_reward("fold:tight")


# --- soft is hard on one-hot --------------------------------------------------------------------------------


def texts(folder) -> list[str]:
    return [
        "gc:.4-.6",
        "homopolymer:3",
        "motif:TGASTCA",
        "motif:TGASTCA,how=occupancy",
        "motif:TGASTCAC,how=count",
        f"activity:{folder / 'classes'},cell=K562",
        f"activity:{folder / 'values'}",
        f"fitness:{folder / 'gb1'},caution=1",
    ]


def test_soft_is_hard_on_one_hot_and_has_a_gradient_that_predicts(folders):
    """The gradient is that of the reward: it foretells a small move inside the simplex."""
    generator = torch.Generator().manual_seed(0)
    for text in texts(folders):
        reward = parse_reward(text)
        assert isinstance(reward, Differentiable), text
        v, length = reward.alphabet.vocabulary, 4 if reward.alphabet == PROTEIN else 20
        tokens = torch.randint(v, (6, length), generator=generator)
        tokens[0, :4] = 0  # a stretch that homopolymer sees
        corners = one_hot(tokens, v)
        torch.testing.assert_close(reward.soft(corners), reward(tokens), msg=text)
        inside = (0.8 * corners + 0.2 * torch.rand(corners.shape, generator=generator).softmax(-1)).requires_grad_()
        (gradient,) = torch.autograd.grad(reward.soft(inside).sum(), inside)
        assert gradient.isfinite().all(), text
        step = 1e-3 * (torch.rand(corners.shape, generator=generator).softmax(-1) - inside.detach())
        moved = reward.soft(inside.detach() + step) - reward.soft(inside.detach() - step)
        foretold = 2 * (gradient * step).sum((1, 2))
        torch.testing.assert_close(moved, foretold, atol=2e-4, rtol=0.05, msg=text)


def test_rows_do_not_know_of_each_other(folders):
    for text in texts(folders):
        reward = parse_reward(text)
        length = 4 if reward.alphabet == PROTEIN else 20
        tokens = torch.randint(reward.alphabet.vocabulary, (5, length), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(reward(tokens)[2:3], reward(tokens[2:3]), msg=text)


def test_activity_is_log_odds_against_the_others_and_of_both_strands(folders):
    predictor = Predictor.load(folders / "classes")
    tokens = torch.randint(4, (5, 20), generator=torch.Generator().manual_seed(2))
    first, second = (parse_reward(f"activity:{folders / 'classes'},cell={cell}")(tokens) for cell in ("HepG2", "K562"))
    torch.testing.assert_close(first, -second)
    p = predictor.outputs(one_hot(tokens)).softmax(-1)[:, 0]
    torch.testing.assert_close(first, torch.logit(p), atol=1e-5, rtol=1e-5)
    turned = parse_reward(f"activity:{folders / 'classes'},cell=HepG2")((3 - tokens).flip(1))
    torch.testing.assert_close(turned, first)


def test_a_value_is_in_the_units_of_its_assay(folders):
    predictor = Predictor.load(folders / "values")
    tokens = torch.randint(4, (5, 20), generator=torch.Generator().manual_seed(2))
    found = parse_reward(f"activity:{folders / 'values'}")(tokens)
    torch.testing.assert_close(found, 5 + 2 * predictor.network(one_hot(tokens))[:, 0])


def test_caution_takes_off_what_members_disagree_by(folders):
    model = FitnessModel.load(folders / "gb1")
    tokens = PROTEIN.encode(["VDGV", "AAAA"])
    members = model.members(one_hot(tokens, 20))
    plain, careful = (parse_reward(f"fitness:{folders / 'gb1'}{text}")(tokens) for text in ("", ",caution=2"))
    torch.testing.assert_close(plain, members.mean(0))
    torch.testing.assert_close(careful, members.mean(0) - 2 * members.std(0), atol=1e-5, rtol=1e-5)


# --- sums ---------------------------------------------------------------------------------------------------


def test_a_sum_is_the_weighted_sum():
    tokens = DNA.encode(["AAAAAAAA", "ACGTACGT"])
    whole = parse_rewards(["2*gc:.4-.6", "homopolymer:3", "-0.5*motif:ACGT"])
    parts = [parse_reward(text)(tokens).double() for text in ("gc:.4-.6", "homopolymer:3", "motif:ACGT")]
    torch.testing.assert_close(whole(tokens), 2 * parts[0] + parts[1] - 0.5 * parts[2])
    assert isinstance(whole, Differentiable)
    torch.testing.assert_close(whole.soft(one_hot(tokens)).double(), whole(tokens))
    assert whole.name == "2*gc:0.4-0.6 + 1*homopolymer:3 + -0.5*motif:ACGT"


def test_a_sum_with_a_black_box_is_one(folders):
    whole = parse_rewards(["gc:.4-.6", f"activity:{folders / 'kmers'}"])
    assert not isinstance(whole, Differentiable)
    tokens = torch.zeros(2, 20, dtype=torch.int64)
    assert whole(tokens).shape == (2,)


def test_one_reward_of_weight_one_is_itself():
    assert isinstance(parse_rewards(["gc:.4-.6"]), GC)
    assert not isinstance(parse_rewards(["1.5*gc:.4-.6"]), GC)


def test_rewards_of_two_alphabets_do_not_add(folders):
    with pytest.raises(InputError, match=r"gc:0.4-0.6 is for DNA, but fitness:.* for protein"):
        parse_rewards(["gc:.4-.6", f"fitness:{folders / 'gb1'}"])
    with pytest.raises(InputError, match="no reward is given"):
        total([])


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gcc:.4-.6", "there is no reward 'gcc' (did you mean 'gc'?); there are activity, fitness, fold, gc, homop"),
        ("", "there is no reward ''; there are"),
        ("gc", "expected gc:LOW-HIGH"),
        ("gc:.6-.4", "expected 0 <= low <= high <= 1"),
        ("gc:a-b", "the low end is 'a'; expected a number"),
        ("gc:.4-.6,low=3", "has no argument 'low'; it takes none"),
        ("homopolymer:many", "expected homopolymer:MAX"),
        ("homopolymer:0", "the longest stretch is 0; expected at least 1"),
        ("motif", "expected one motif"),
        ("motif:TGASTCA,how=most", "how must be one of 'best', 'occupancy', 'count', but is 'most'"),
        ("motif:TGASTCA,hw=best", "has no argument 'hw' (did you mean 'how'?)"),
        ("motif:TGASTCA,how=best,how=best", "how is given twice"),
        ("motif:consensus=ACG,how=count", "too short for a site to be significant"),
        ("motif:consensus=AXG", "'X' at place 2"),
        ("activity", "expected the folder of a predictor"),
        ("activity:nowhere", "nowhere is no folder"),
        ("fitness:nowhere", "nowhere is no model"),
        ("two*gc:.4-.6", "its weight is 'two'; expected a number"),
        ("nan*gc:.4-.6", "its weight is 'nan'"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(text, message, here):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_rewards([text])


def test_a_cell_must_be_one_that_the_predictor_knows(folders):
    with pytest.raises(InputError, match=r"expected ,cell= with one of HepG2, K562"):
        parse_reward(f"activity:{folders / 'classes'}")
    with pytest.raises(InputError, match=r"must be one of 'HepG2', 'K562', but is 'HepG3' \(did you mean 'HepG2'\?\)"):
        parse_reward(f"activity:{folders / 'classes'},cell=HepG3")
    with pytest.raises(InputError, match="must be one of 'HepG2', but is 'K562'"):
        parse_reward(f"activity:{folders / 'kmers'},cell=K562")
    with pytest.raises(InputError, match="the format must be one of"):
        parse_reward(f"activity:{folders / 'gb1'}")


def test_a_length_that_was_not_trained_for_is_refused(folders):
    for text in ("classes,cell=HepG2", "kmers"):
        with pytest.raises(InputError, match="was trained on 20 letters, but the sequences have 19"):
            parse_reward(f"activity:{folders}/{text}")(torch.zeros(1, 19, dtype=torch.int64))
    with pytest.raises(InputError, match="was trained on 4 letters, but the sequences have 5"):
        parse_reward(f"fitness:{folders / 'gb1'}")(torch.zeros(1, 5, dtype=torch.int64))


def test_what_may_be_a_name_and_a_consensus_is_refused(tmp_path):
    (tmp_path / "own.meme").write_text(
        "MEME version 4\n\nMOTIF M1:MYB:Myb\nletter-probability matrix: alength= 4 w= 1\n 0 0 1 0\n"
    )
    file = f"file={tmp_path / 'own.meme'}"
    with pytest.raises(InputError, match=r"MYB: is a consensus and a part of M1:MYB:Myb; expected consensus=MYB or"):
        parse_reward(f"motif:MYB,{file}")
    assert parse_reward(f"motif:name=MYB,{file}").name == "motif:M1:MYB:Myb"
    assert parse_reward("motif:consensus=MYB").name == "motif:MYB"
    with pytest.raises(InputError, match="no motif 'CTCF_X'"):
        parse_reward(f"motif:CTCF_X,{file}")


# --- plug-ins -----------------------------------------------------------------------------------------------


def _announced(monkeypatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(
        parsing,
        "entry_points",
        lambda group, name=None: [point for point in points if name in (None, point.name)],
    )


def test_a_reward_of_another_package_is_found_by_its_entry_point(monkeypatch):
    _announced(monkeypatch, EntryPoint("window", f"{GC.__module__}:GC.from_text".replace("degauss.bio", "x"), "g"))
    assert "window" in available()
    with pytest.raises(InputError, match=r"reward 'window' of x\.rewards\.composition:GC\.from_text cannot be loaded"):
        parse_reward("window:.1-.2")
    monkeypatch.setattr(EntryPoint, "load", lambda self: GC.from_text)
    assert parse_reward("window:.1-.2").name == "gc:0.1-0.2"


def test_two_rewards_of_one_name_are_refused(monkeypatch):
    _announced(monkeypatch, EntryPoint("gc", "other:gc", "g"), EntryPoint("x", "a:b", "g"), EntryPoint("x", "c:d", "g"))
    with pytest.raises(InputError, match=r"'gc' is also one of other:gc"):
        parse_reward("gc:.4-.6")
    with pytest.raises(InputError, match=r"'x' is in a:b and c:d"):
        parse_reward("x")


# --- scoring many -------------------------------------------------------------------------------------------


class Odd:
    """A reward that is no number for a sequence that begins with T."""

    name = "odd"
    alphabet = DNA

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.where(tokens[:, 0] == 3, torch.nan, tokens[:, 0].double())


def test_a_reward_that_is_no_number_is_named_with_its_sequence():
    tokens = torch.zeros(600, 5, dtype=torch.int64)
    assert evaluate(Odd(), tokens).tolist() == [0.0] * 600
    tokens[411, 0] = 3
    with pytest.raises(InputError, match=r"reward odd is nan for sequence 412; expected a number"):
        evaluate(Odd(), tokens)
    with pytest.raises(InputError, match=r"reward 2\*odd is nan"):
        evaluate(total([Term(2, Odd())]), tokens)


def test_no_sequence_has_no_score():
    assert evaluate(GC(0.4, 0.6), torch.zeros(0, 5, dtype=torch.int64)).shape == (0,)


def test_an_answer_of_another_shape_is_a_mistake_of_the_reward():
    class Wide(Odd):
        def __call__(self, tokens):
            return tokens

    with pytest.raises(ValueError, match=r"reward odd answered \(2, 5\) for 2 sequences"):
        evaluate(Wide(), torch.zeros(2, 5, dtype=torch.int64))
