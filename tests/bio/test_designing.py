"""Searching for designs: constraints in all of them, ranked, different, the same for a seed; what cannot be asked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from degauss.bio.alphabets import DNA, PROTEIN, Alphabet
from degauss.bio.constraints import parse_constraints
from degauss.bio.design_report import Job, check_met, numbers_only, report_of
from degauss.bio.designing import Found, MethodName, Settings, finetuned, search
from degauss.bio.model import SequenceModel
from degauss.bio.rewards import Term, parse_reward, parse_rewards
from degauss.core.errors import InputError

from .conftest import random_model

LENGTH = 14
METHODS = get_args(MethodName)
SMALL = Settings(n=6, steps=6, alpha=0.5, particles=4, proposals=3, draws=3, label="b")
REWARD = parse_rewards(["motif:TGACTCA", "2*gc:.5-.6"])


def mild(labels: tuple[str, ...] = ("a", "b"), alphabet: Alphabet = DNA, length: int = LENGTH) -> SequenceModel:
    """A random model that is not sure of anything, so that there are many sequences to be found."""
    model = random_model(length, labels, alphabet)
    for name, weight in model.network.named_parameters():
        if name.startswith("outward"):
            weight.data *= 0.5
    return model


MODEL = mild()


@dataclass(frozen=True)
class Named:
    """A reward that is a function."""

    value: float = 0.0
    alphabet: Alphabet = DNA
    name: str = "made-up"

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.full((len(tokens),), self.value)


def sequences(found: Found) -> list[str]:
    return DNA.decode(found.tokens)


# --- what holds for every method ----------------------------------------------------------------------------


TABLE: list[dict[str, Any]] = [
    {"fix": ["2:TATA", "14:R"], "max_homopolymer": 2},
    {"require": ["GATAAG"], "forbid": ["TGA:+"], "gc": ".2-.5"},
    {"protein": "3:MKX", "gc_window": ["5:.2-.8"], "forbid": ["MboI"]},
]


@pytest.mark.parametrize("asked", TABLE)
@pytest.mark.parametrize("method", METHODS)
def test_every_design_meets_every_constraint(method: MethodName, asked: dict) -> None:
    constraints = parse_constraints(**asked)
    found = search(MODEL, REWARD, replace(SMALL, method=method), constraints.lattice(LENGTH))
    made = sequences(found)
    assert len(made) == len(set(made)) == SMALL.n
    assert [constraints.violations(one) for one in made] == [[]] * SMALL.n
    rewards = [one.reward for one in found.designs]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards == pytest.approx(REWARD(found.tokens).tolist())


def test_without_constraints_they_are_not_met_by_chance() -> None:
    found = search(MODEL, REWARD, SMALL)
    for asked in TABLE:
        constraints = parse_constraints(**asked)
        assert any(constraints.violations(one) for one in sequences(found))


@pytest.mark.parametrize("method", METHODS)
def test_designs_follow_from_the_seed_and_not_from_the_batch(method: MethodName) -> None:
    settings = replace(SMALL, method=method)
    one, cut = (search(MODEL, REWARD, replace(settings, batch=batch)) for batch in (64, 3))
    assert sequences(one) == sequences(cut)
    assert [design.sample for design in one.designs] == [design.sample for design in cut.designs]
    other = search(MODEL, REWARD, replace(settings, seed=1))
    assert set(sequences(other)) != set(sequences(one))


def test_methods_find_more_than_samples_have() -> None:
    settings = replace(SMALL, n=24, alpha=0.3, particles=12, proposals=6, draws=6)
    plain = search(MODEL, REWARD, replace(settings, method="drakes"))

    def mean(found: Found) -> float:
        return sum(one.reward for one in found.designs) / len(found.designs)

    for method in ("smc", "tds", "svdd", "cg", "best-of-n"):
        assert mean(search(MODEL, REWARD, replace(settings, method=method))) > mean(plain) + 3, method


# --- limits -------------------------------------------------------------------------------------------------


def test_limits_of_methods_are_other_methods() -> None:
    def made(method: MethodName, **changed: object) -> list[str]:
        return sequences(search(MODEL, REWARD, replace(SMALL, method=method, **changed)))

    assert made("tds", scale=0.0) == made("smc")
    assert made("cg", scale=0.0) == made("drakes") == made("best-of-n", draws=1)
    assert made("cfg", weight=0.0) == made("drakes")
    assert made("cfg", weight=-1.0) == made("drakes", label=None)
    assert made("cfg", weight=2.0) != made("drakes")
    assert made("tds") != made("smc")


def test_guidance_is_one_over_alpha_unless_given() -> None:
    assert Settings("cg", alpha=0.25).strength == 4
    assert Settings("cg", alpha=0.25, scale=3).strength == 3


def test_costs() -> None:
    found = search(MODEL, REWARD, replace(SMALL, method="best-of-n"))
    assert found.reward_calls == found.drawn * SMALL.draws
    assert found.gradients == 0
    found = search(MODEL, REWARD, replace(SMALL, method="tds"))
    assert found.drawn % SMALL.particles == 0
    assert found.reward_calls == found.evaluations == found.drawn * SMALL.steps
    assert found.gradients == found.drawn * SMALL.steps
    assert 1 <= found.survivors <= SMALL.particles


# --- room ---------------------------------------------------------------------------------------------------


def test_all_sequences_that_there_are_can_be_found() -> None:
    lattice = parse_constraints(fix=["1:TATATATATATATR"]).lattice(LENGTH)
    found = search(MODEL, REWARD, replace(SMALL, n=2, method="drakes"), lattice)
    assert sorted(sequences(found)) == ["TATATATATATATA", "TATATATATATATG"]
    with pytest.raises(InputError, match="n is 3, but there are only 2 different sequences of 14 letters that meet"):
        search(MODEL, REWARD, replace(SMALL, n=3), lattice)


def test_without_constraints_there_are_as_many_as_there_are() -> None:
    tiny = random_model(2)
    with pytest.raises(InputError, match="only 16 different sequences of 2 letters"):
        search(tiny, parse_reward("gc:.4-.6"), Settings(n=17))


def test_a_model_that_repeats_itself_is_asked_so_often_and_no_more() -> None:
    sure = mild(())
    for name, weight in sure.network.named_parameters():
        if name == "outward.2.bias":
            weight.data = torch.tensor([40.0, 0.0, 0.0, 0.0])
    settings = Settings("smc", n=5, steps=4, particles=4, tries=3)
    found = search(sure, REWARD, settings)
    assert (sequences(found), found.drawn) == (["A" * LENGTH], 16)
    assert search(sure, REWARD, replace(settings, batch=1)).drawn == 16


# --- what cannot be asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "settings", "said"),
    [
        (Named(math.nan), SMALL, "made-up must return finite numbers, but returned nan"),
        (
            parse_rewards(["gc:.4-.6", "fold"]),
            replace(SMALL, method="cg"),
            "method cg differentiates the reward, which",
        ),
        (Named(), replace(SMALL, method="tds"), "smc, svdd and best-of-n take any reward"),
        (Named(alphabet=PROTEIN), SMALL, "reward made-up is for protein, but the model is for DNA"),
        (REWARD, replace(SMALL, method="cg", scale=1e8), "weaker guidance"),
    ],
)
def test_rewards_that_cannot_be(reward: Named, settings: Settings, said: str) -> None:
    lattice = parse_constraints(require=["CCCCCC"], forbid=["TGACTCA"]).lattice(LENGTH)
    with pytest.raises(InputError, match=said):
        search(MODEL, reward, settings, lattice)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "smcc"}, "did you mean 'smc'"),
        ({"method": "cfg"}, "method cfg needs a label"),
        ({"method": "cg", "alpha": 0.0}, "alpha must be above 0"),
        ({"n": 0}, "n must be at least 1"),
        ({"tries": 0}, "tries must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings(**settings)


def test_a_label_that_the_model_has_not() -> None:
    with pytest.raises(InputError, match="label must be one of 'a', 'b'"):
        search(MODEL, REWARD, replace(SMALL, label="c"))


def test_only_a_model_that_was_fine_tuned_is_for_drakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not fine-tuned"):
        finetuned(tmp_path, None)
    (tmp_path / "card.json").write_text(json.dumps({"finetuned_from": {}, "label": "a"}))
    assert finetuned(tmp_path, None) == finetuned(tmp_path, "a") == "a"
    with pytest.raises(InputError, match="fine-tuned for label a, but label is 'b'"):
        finetuned(tmp_path, "b")


# --- what is said of them -----------------------------------------------------------------------------------


def job(rewards: list[str], **changed: object) -> Job:
    terms = tuple(Term(2.0, parse_reward(text)) for text in rewards)
    return Job(MODEL, "0" * 64, SMALL, terms, parse_constraints(), **changed)  # pyright: ignore[reportArgumentType]


def test_names_in_a_header_are_short_and_different() -> None:
    assert list(job(["gc:.4-.6", "motif:TGACTCA", "gc:.5-.7"]).rewards) == ["gc", "motif", "gc_2"]


def test_each_reward_is_said_by_itself_and_the_sum_with_weights() -> None:
    asked = job(["gc:.6-.8", "motif:TGACTCA"])
    found = search(MODEL, parse_rewards(["2*gc:.6-.8", "2*motif:TGACTCA"]), SMALL)
    for record in report_of(asked, found).records:
        numbers = {name: float(record.labels[name]) for name in ("reward", "gc", "motif")}
        assert numbers["reward"] == pytest.approx(2 * numbers["gc"] + 2 * numbers["motif"], abs=1e-3)
        assert numbers["gc"] == pytest.approx(float(parse_reward("gc:.6-.8")(DNA.encode([record.sequence]))), abs=1e-4)


def test_a_design_that_does_not_meet_its_constraints_is_never_written() -> None:
    with pytest.raises(RuntimeError, match=r"AAAA does not meet the constraints .*position 1 is A, not C"):
        check_met(parse_constraints(fix=["1:C"]), ["CAAA", "AAAA"])


def test_a_held_out_reward_that_is_the_reward_transfers_and_its_opposite_does_not() -> None:
    found = search(MODEL, parse_rewards(["2*motif:TGACTCA"]), replace(SMALL, n=12, method="cg"))
    asked = replace(job(["motif:TGACTCA"]), held_out=parse_reward("motif:TGACTCA"))
    (gap,) = report_of(asked, found).facts["hacking"]["held_out"].values()
    assert gap["verdict"] == "transfers"
    assert gap["transfer"] == pytest.approx(1)
    (gap,) = report_of(replace(asked, held_out=parse_reward("gc:.9-1.")), found).facts["hacking"]["held_out"].values()
    assert gap["verdict"] != "transfers"


def test_what_is_no_number_is_none_in_json() -> None:
    assert numbers_only({"a": {"b": math.nan}, "c": 1.5}) == {"a": {"b": None}, "c": 1.5}
