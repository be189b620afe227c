"""The hacking report: an honest gain passes, a gamed one does not, and repeats are caught although they are likely."""

from __future__ import annotations

import math

import pytest
import torch

from degauss.bio.alphabets import DNA
from degauss.bio.hacking import Scores, collapse, gap, hacking_report
from degauss.bio.markov import Markov

N = 4000


def two_oracles(rho: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of natural sequences by two oracles that correlate by rho, in units of their own."""
    a, b = torch.randn(2, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 3 + 2 * a, -1 + 5 * (rho * a + math.sqrt(1 - rho**2) * b)


def judged(rho: float, reward_gain: float, held_out_gain: float):
    """The gap where designs gained so many natural standard deviations."""
    reward, held_out = two_oracles(rho)
    spread = torch.linspace(-0.1, 0.1, 101, dtype=torch.float64)
    designs = (3 + 2 * (reward_gain + spread), -1 + 5 * (held_out_gain + spread))
    return gap(Scores(designs[0], reward), Scores(designs[1], held_out))


def test_gains_are_in_natural_standard_deviations():
    found = judged(0.7, 4, 2.5)
    assert found.reward == pytest.approx(4, abs=0.1)
    assert found.held_out == pytest.approx(2.5, abs=0.1)
    assert found.agreement == pytest.approx(0.7, abs=0.03)
    assert found.transfer == pytest.approx(2.5 / (0.7 * 4), rel=0.08)
    assert found.percentile == pytest.approx(0.994, abs=0.01)


def test_a_gain_on_the_line_of_nature_transfers_whole():
    """Designs that lie where regression on natural sequences puts them: transfer 1, whatever rho."""
    for rho in (0.4, 0.7, 0.95):
        found = judged(rho, 3, 3 * rho)
        assert found.transfer == pytest.approx(1, abs=0.1)
        assert found.verdict == "transfers"
        assert "Warning" not in found.sentence


@pytest.mark.parametrize(
    ("rho", "gains", "verdict", "said"),
    [
        (0.7, (5.0, 1.0), "gap", "less than half"),
        (0.7, (8.0, -0.3), "hacked", "the reward was hacked"),
        (0.7, (0.1, 0.1), "no gain", "no gain to judge"),
        (0.7, (-2.0, -2.0), "no gain", "no gain to judge"),
        (0.0, (5.0, 3.0), "unknown", "no witness"),
    ],
)
def test_verdicts(rho, gains, verdict, said):
    found = judged(rho, *gains)
    assert found.verdict == verdict
    assert said in found.sentence


def test_the_scale_of_an_oracle_does_not_matter():
    reward, held_out = two_oracles(0.7)
    designs = torch.full((9,), 8.0, dtype=torch.float64)
    one = gap(Scores(designs, reward), Scores(designs, held_out))
    other = gap(Scores(100 * designs - 7, 100 * reward - 7), Scores(designs / 3, held_out / 3))
    assert other.transfer == pytest.approx(one.transfer)
    assert other.verdict == one.verdict


def test_a_constant_oracle_is_no_witness():
    reward, _ = two_oracles(0.7)
    found = gap(Scores(torch.full((5,), 9.0), reward), Scores(torch.zeros(5), torch.zeros(N)))
    assert found.verdict == "unknown"
    assert math.isnan(found.held_out)


def test_both_oracles_must_score_the_same_sequences():
    with pytest.raises(ValueError, match="the same sequences"):
        gap(Scores(torch.zeros(3), torch.zeros(9)), Scores(torch.zeros(3), torch.zeros(8)))


# --- collapse -----------------------------------------------------------------------------------------------


def drawn(n: int, seed: int) -> torch.Tensor:
    """DNA in which A follows T and T follows A more often than not, as in real accessible sites."""
    generator = torch.Generator().manual_seed(seed)
    law = torch.tensor([[0.2, 0.2, 0.2, 0.4], [0.25] * 4, [0.25] * 4, [0.4, 0.2, 0.2, 0.2]])
    columns = [torch.randint(4, (n,), generator=generator)]
    for _ in range(99):
        columns.append(torch.multinomial(law[columns[-1]], 1, generator=generator)[:, 0])
    return torch.stack(columns, 1)


def test_repeats_are_flagged_although_they_are_likely():
    """The trap: a collapsed generator writes AT repeats, which the model of the data finds likelier than the data."""
    natural = drawn(1000, 0)
    model = Markov.fit(drawn(1000, 1), 4, 3)
    repeats = DNA.encode(["AT" * 50, "TA" * 50] * 20)
    likelihood = Scores(model.log_prob(repeats), model.log_prob(natural))
    assert float(likelihood.designs.min()) > float(likelihood.natural.quantile(0.99)), "likelier than nearly all"
    reward, held_out = two_oracles(0.7)
    scores = Scores(torch.full((40,), 20.0), reward[:1000]), Scores(torch.full((40,), -1.5), held_out[:1000])
    found = hacking_report(repeats, natural, 4, scores[0], [("oracle", scores[1])], likelihood)
    assert not found.clean
    assert found.gaps["oracle"].verdict == "hacked"
    assert found.collapse.simple == 1
    assert found.collapse.too_likely == 1
    assert found.collapse.too_unlikely == 0
    said = " ".join(found.sentences)
    for sign in ("oracle: Warning: the reward was hacked", "may be repeats", "no sign of naturalness", "are alike"):
        assert sign in said


def test_natural_sequences_raise_no_warning():
    natural, others = drawn(1000, 0), drawn(200, 2)
    model = Markov.fit(drawn(1000, 1), 4, 3)
    found = collapse(others, natural, 4, Scores(model.log_prob(others), model.log_prob(natural)))
    assert found.warnings == []
    assert found.too_likely == pytest.approx(0.025, abs=0.03)
    assert found.pair_distance == pytest.approx(found.natural_pair_distance, abs=0.01)


def test_what_nature_avoids_is_too_unlikely():
    natural = drawn(1000, 0)
    model = Markov.fit(drawn(1000, 1), 4, 3)
    noise = DNA.encode(["A" * 100]).repeat(10, 1)
    found = collapse(noise, natural, 4, Scores(model.log_prob(noise), model.log_prob(natural)))
    assert any("less likely under the model" in warning for warning in found.warnings)
    assert any("10 %" in warning for warning in found.warnings), "one of ten is a sequence of its own"


def test_without_a_model_likelihood_is_not_judged():
    found = collapse(drawn(50, 1), drawn(50, 2), 4)
    assert math.isnan(found.too_likely)
    assert found.warnings == []
