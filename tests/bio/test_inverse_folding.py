"""The denoiser against the causal decoder it comes from, and what holds in every design of every sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.bio.alphabets import PROTEIN
from degauss.bio.datasets import proteinmpnn_path, structure_path
from degauss.bio.decoding import Decoding, decode, on_grid, one_by_one
from degauss.bio.inverse_folding import (
    PROCESS,
    Redesign,
    inverse_folding,
    redesign,
    reveal_ranks,
    score,
)
from degauss.bio.proteinmpnn import LETTERS, ProteinMPNN, load_proteinmpnn
from degauss.bio.structures import Structure, read_structure, select
from degauss.core import Noise
from degauss.core.errors import InputError
from degauss.core.jump import (
    Absorbing,
    Solver,
    Tempered,
    ancestral,
    capped,
    confident,
    entropy_bounded,
    first_hitting,
    remasking,
    sample_tokens,
    skipping,
)
from degauss.core.reward import SMC, SVDD, BestOf, Method, design

from ._proteins import Residue, helix, random_network, written

SOLVERS: dict[str, Callable[[], Solver[Absorbing]]] = {
    "ancestral": ancestral,
    "skipping": skipping,
    "first-hitting": first_hitting,
    "confident": confident,
    "entropy-bounded": lambda: entropy_bounded(3.0),
    "remasking": lambda: remasking(capped(0.1)),
}


@pytest.fixture(autouse=True)
def _no_graph() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def network() -> ProteinMPNN:
    return random_network(k=9)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[list[Residue]], Structure]:
    return lambda residues: read_structure(written(tmp_path / "model.pdb", residues))


def dimer() -> list[Residue]:
    """Two chains of 8 residues, side by side."""
    return [*helix("ACDEFGHX"), *helix("MNPQRSTV", chain="B", shift=9)]


@pytest.fixture
def problem(read: Callable[[list[Residue]], Structure]) -> Redesign:
    """Six residues of the dimer are fixed, X among them."""
    structure = read(dimer())
    return redesign(structure, select(structure, ["A:2-4,8", "B:1,5"]), omit="cw")


def some(problem: Redesign, rows: int, seed: int = 0) -> Tensor:
    """Random states without masks."""
    return torch.randint(20, (rows, problem.places), generator=torch.Generator().manual_seed(seed))


# --- the denoiser -------------------------------------------------------------------------------------------


def test_it_is_the_conditional_of_the_causal_decoder_for_every_position_of_an_order(
    network: ProteinMPNN, problem: Redesign
) -> None:
    model = replace(inverse_folding(network, problem), omitted=torch.zeros(20, dtype=torch.bool))
    x = some(problem, 3)
    ranks = reveal_ranks(4, x.shape)
    causal = network.decode(model.context, problem.letters(x), model._residue_ranks(ranks))
    causal = causal[..., :20].log_softmax(-1)[:, problem.designed]
    place_order = ranks.argsort(1)
    for known in range(problem.places):
        masked = torch.ones_like(x, dtype=torch.bool).scatter(1, place_order[:, :known], False)
        found = model(x.masked_fill(masked, PROCESS.mask), torch.tensor(0.5), ranks=ranks).logits.log_softmax(-1)
        rows, following = torch.arange(3), place_order[:, known]
        torch.testing.assert_close(found[rows, following], causal[rows, following], rtol=1e-5, atol=1e-5)


def test_masked_residues_are_decoded_in_parallel_each_as_if_it_were_next(
    network: ProteinMPNN, problem: Redesign
) -> None:
    """Whichever of the masked comes first, it sees those with a letter and no other masked one."""
    model = inverse_folding(network, problem)
    x = some(problem, 1)
    masked = torch.arange(problem.places)[None] % 2 == 0
    state, ranks = x.masked_fill(masked, PROCESS.mask), reveal_ranks(4, x.shape)
    found = model(state, torch.tensor(0.5), ranks=ranks).logits
    for place in masked[0].nonzero()[:, 0].tolist():
        # The decoder, told that this one comes right after those with a letter, and the other masked ones last.
        order = ranks.masked_fill(masked, 3.0)
        order[0, place] = 2.0
        logits = network.decode(model.context, problem.letters(x), model._residue_ranks(order))[0, problem.designed]
        want = logits[place, :20].masked_fill(model.omitted, float("-inf"))
        torch.testing.assert_close(found[0, place], want, rtol=1e-5, atol=1e-5)


def test_letters_stay_and_native_letters_of_what_is_designed_are_not_looked_at(
    network: ProteinMPNN, problem: Redesign
) -> None:
    model = inverse_folding(network, problem)
    x = some(problem, 2)
    x[:, ::2] = PROCESS.mask
    t = torch.tensor(0.5)
    found = model(x, t).logits
    known = found.softmax(-1)[:, 1::2]
    assert torch.equal(known.argmax(-1), x[:, 1::2])
    assert bool((known.amax(-1) == 1).all())
    designed = "".join(
        "W" if free else letter
        for free, letter in zip(problem.designed.tolist(), problem.structure.sequence, strict=True)
    )
    fixed = "".join(
        letter if free else "W"
        for free, letter in zip(problem.designed.tolist(), problem.structure.sequence, strict=True)
    )
    hidden, changed = (
        inverse_folding(network, replace(problem, structure=replace(problem.structure, sequence=sequence)))
        for sequence in (designed, fixed)
    )
    assert torch.equal(hidden(x, t).logits, found)
    assert not torch.allclose(changed(x, t).logits[:, ::2].softmax(-1), found[:, ::2].softmax(-1), atol=1e-3)


def test_the_answer_depends_weakly_on_the_order_of_what_is_known(network: ProteinMPNN, problem: Redesign) -> None:
    """It is no function of the set alone: that is why the order is part of the condition."""
    model, x = inverse_folding(network, problem), some(problem, 1)
    x[:, 0] = PROCESS.mask
    first, second = (model(x, torch.tensor(0.5), ranks=reveal_ranks(seed, x.shape)).logits[:, 0] for seed in (1, 2))
    assert not torch.equal(first, second)
    with pytest.raises(TypeError, match="nothing else, got label"):
        model(x, torch.tensor(0.5), label=1)


def test_the_likelihood_sums_to_one_in_any_order(network: ProteinMPNN, read: Callable[..., Structure]) -> None:
    problem = redesign(read(helix("AC")))
    model = inverse_folding(network, problem)
    letters = torch.tensor(list(product(range(21), repeat=2)))
    first, second = (
        model.log_prob(letters, torch.tensor([order], dtype=torch.float64).expand(len(letters), -1)).sum(1)
        for order in ((0.1, 0.9), (0.9, 0.1))
    )
    for log_p in (first, second):
        assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_residue_without_a_whole_backbone_is_as_if_it_were_not_there(
    network: ProteinMPNN, read: Callable[..., Structure]
) -> None:
    residues = helix("ACDEFGHIKL")
    broken = [*residues]
    broken[4] = broken[4]._replace(atoms={"CA": broken[4].atoms["CA"]})
    whole, gap = redesign(read(broken)), redesign(read([*residues[:4], *residues[5:]]))
    assert (whole.places, gap.places) == (9, 9)
    x = decode(inverse_folding(network, whole), range(4), 9)
    assert torch.equal(x, decode(inverse_folding(network, gap), range(4), 9))
    sequences = [whole.chain_sequences(one)["A"] for one in whole.letters(x)]
    assert {sequence[4] for sequence in sequences} == {"F"}
    torch.testing.assert_close(
        score(inverse_folding(network, whole), whole.letters(x)), score(inverse_folding(network, gap), gap.letters(x))
    )


# --- samplers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_keeps_what_is_fixed_and_never_emits_what_is_omitted(
    name: str, network: ProteinMPNN, problem: Redesign
) -> None:
    model = inverse_folding(network, problem)
    shape = (12, problem.places)
    cond = {"ranks": reveal_ranks(0, shape)}
    x = sample_tokens(model, PROCESS, shape, solver=SOLVERS[name](), steps=problem.places, seed=0, cond=cond)
    letters = problem.letters(x)
    assert torch.equal(letters[:, ~problem.designed], problem.native()[~problem.designed].expand(12, -1))
    used = {LETTERS[letter] for letter in letters[:, problem.designed].flatten().tolist()}
    assert not used & set("CWX")
    assert len(used) > 5
    if name != "remasking":
        # In twos, the other way round: sample ids say what a sample is, the batch does not.
        parts = [
            sample_tokens(
                model,
                PROCESS,
                (2, problem.places),
                solver=SOLVERS[name](),
                steps=problem.places,
                seed=0,
                samples=ids,
                cond={"ranks": reveal_ranks(0, (2, problem.places), ids)},
            )
            for ids in ((10, 11), (4, 5))
        ]
        assert torch.equal(torch.cat(parts), x[[10, 11, 4, 5]])


def test_one_by_one_is_first_hitting_with_every_residue_computed_once(network: ProteinMPNN, problem: Redesign) -> None:
    model = inverse_folding(network, problem)
    shape = (6, problem.places)
    want = sample_tokens(
        Tempered(model, 0.5),
        PROCESS,
        shape,
        solver=first_hitting(),
        steps=problem.places,
        seed=3,
        cond={"ranks": reveal_ranks(3, shape)},
    )
    found = decode(model, range(6), problem.places, temperature=0.5, when=one_by_one, seed=3)
    assert torch.equal(found, want)


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_on_a_grid_it_is_skipping_where_residues_of_one_step_do_not_see_each_other(
    steps: int, network: ProteinMPNN, problem: Redesign
) -> None:
    model = inverse_folding(network, problem)
    shape = (6, problem.places)
    ranks = torch.floor(reveal_ranks(3, shape) * steps) / steps
    want = sample_tokens(
        Tempered(model, 0.5), PROCESS, shape, solver=skipping(), steps=steps, seed=3, cond={"ranks": ranks}
    )
    found = decode(model, range(6), steps, temperature=0.5, when=on_grid, seed=3)
    assert torch.equal(found, want)
    assert torch.equal(decode(model, (4, 1), steps, temperature=0.5, seed=3), want[[4, 1]])


def test_a_run_of_the_decoder_costs_one_pass(
    network: ProteinMPNN, problem: Redesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = inverse_folding(network, problem)
    counted = 0
    layer = ProteinMPNN.layer

    def counting(self: ProteinMPNN, known: Any, number: int, states: Tensor, *rest: Tensor) -> Tensor:
        nonlocal counted
        counted += states.shape[:-1].numel()
        return layer(self, known, number, states, *rest)

    monkeypatch.setattr(ProteinMPNN, "layer", counting)
    decode(model, range(5), 4)
    fixed = len(problem.structure)  # once for all rows
    assert counted == 3 * (5 * problem.places + fixed)


def test_decoding_refuses_given_letters_and_temperature_0(network: ProteinMPNN, problem: Redesign) -> None:
    model = inverse_folding(network, problem)
    grid = torch.linspace(1, 0, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="starts from masks only"):
        Decoding(model).init(some(problem, 1), grid)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="temperature must be"):
            Decoding(model, temperature)


def test_a_low_temperature_takes_the_likeliest_letter(network: ProteinMPNN, read: Callable[..., Structure]) -> None:
    problem = redesign(read(helix("ACDEFGHIKL")))
    model = inverse_folding(network, problem)
    masks = torch.full((1, problem.places), PROCESS.mask)
    x = decode(model, range(3), 1, temperature=1e-4)
    assert torch.equal(x, model(masks, torch.tensor(1.0)).logits.argmax(-1).expand(3, -1))


# --- rewards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SMC(alpha=0.02, particles=8), SVDD(alpha=0.0, proposals=6), BestOf(draws=8)])
def test_searches_for_a_reward_work_on_it(method: Method, network: ProteinMPNN, problem: Redesign) -> None:
    """More of some letters is asked for; what is fixed and what is omitted hold as ever."""
    model = inverse_folding(network, problem)
    wanted = torch.tensor([letter in "EIVNTS" for letter in PROTEIN.letters])

    def reward(x: Tensor) -> Tensor:
        return wanted[x].double().mean(1)

    plain = reward(decode(model, range(16), 5)).mean()
    found = design(model, PROCESS, (16, problem.places), reward, method=method, steps=5)
    assert float(found.rewards.mean()) > float(plain) + 0.1
    letters = problem.letters(found.tokens)
    assert torch.equal(letters[:, ~problem.designed], problem.native()[~problem.designed].expand(16, -1))
    assert not {"C", "W"} & {LETTERS[letter] for letter in letters[:, problem.designed].flatten().tolist()}


# --- tied chains --------------------------------------------------------------------------------------------


def test_tied_residues_get_one_letter_from_the_mean_of_their_logits(
    network: ProteinMPNN, read: Callable[..., Structure]
) -> None:
    structure = read(dimer())
    pairs = [(row, row + 8) for row in range(8)]
    problem, free = redesign(structure, tied=pairs), redesign(structure)
    assert (problem.places, free.places) == (8, 16)
    model, apart = inverse_folding(network, problem), inverse_folding(network, free)
    x, t = torch.full((2, 8), PROCESS.mask), torch.tensor(1.0)
    x[:, 2], x[:, 5] = 3, 7
    ranks = reveal_ranks(0, x.shape)
    both = apart(x.repeat(1, 2), t, ranks=ranks.repeat(1, 2)).logits
    found = model(x, t, ranks=ranks).logits
    masked = x[0] == PROCESS.mask
    torch.testing.assert_close(found[:, masked], ((both[:, :8] + both[:, 8:]) / 2)[:, masked], rtol=1e-5, atol=1e-5)
    for letters in (
        problem.letters(decode(model, range(4), 3)),
        problem.letters(sample_tokens(model, PROCESS, (4, 8), solver=confident(), steps=3)),
    ):
        assert torch.equal(letters[:, :8], letters[:, 8:])
    # The same samples from the denoiser, here too.
    ranks = torch.floor(reveal_ranks(0, (4, 8)) * 3) / 3
    want = sample_tokens(model, PROCESS, (4, 8), solver=skipping(), steps=3, cond={"ranks": ranks})
    assert torch.equal(decode(model, range(4), 3), want)


def test_ties_join_and_must_not_cross_what_is_fixed(read: Callable[..., Structure]) -> None:
    structure = read(dimer())
    joined = redesign(structure, tied=[(0, 1), (2, 3), (1, 2)])
    assert joined.place.tolist() == [0, 0, 0, 0, *range(1, 13)]
    with pytest.raises(InputError, match="residue B1 is fixed or incomplete, but is tied to residues"):
        redesign(structure, select(structure, ["B:1"]), tied=[(0, 8)])


# --- what cannot be asked for -------------------------------------------------------------------------------


def test_impossible_redesigns_are_refused(read: Callable[..., Structure]) -> None:
    structure = read(dimer())
    with pytest.raises(InputError, match="nothing is left to design"):
        redesign(structure, torch.ones(16, dtype=torch.bool))
    with pytest.raises(InputError, match="omit has 'B', which is none of the amino acids"):
        redesign(structure, omit="AB")
    with pytest.raises(InputError, match="leaves no amino acid"):
        redesign(structure, omit=PROTEIN.letters)
    broken = dimer()
    broken[3] = broken[3]._replace(atoms={"CA": broken[3].atoms["CA"]})
    with pytest.raises(InputError, match="residue 4 of chain A lacks a backbone atom"):
        Redesign(read(broken), torch.arange(16))


# --- scores -------------------------------------------------------------------------------------------------


def test_scores_are_means_over_orders_and_over_residues(network: ProteinMPNN, problem: Redesign) -> None:
    model = inverse_folding(network, problem)
    letters = problem.letters(some(problem, 3))
    several = score(model, letters, orders=4)
    noise = Noise(0, range(4)).fork(3)
    ranks = noise.uniform(torch.empty(4, problem.places, dtype=torch.float64))
    nats = torch.stack([-model.log_prob(letters, one.expand(3, -1)) for one in ranks])
    torch.testing.assert_close(several.all, nats.mean(0).mean(1))
    torch.testing.assert_close(several.designed, nats[:, :, problem.designed].mean(0).mean(1))
    torch.testing.assert_close(score(model, letters[1:2], orders=4).all, several.all[1:2])
    with pytest.raises(ValueError, match="at least one order"):
        score(model, letters, orders=0)


def test_recovery_counts_designed_residues_only(problem: Redesign) -> None:
    letters = problem.native()[None].clone()
    assert problem.recovery(letters).tolist() == [1]
    letters[0, ~problem.designed] = 0
    assert problem.recovery(letters).tolist() == [1]
    letters[0, problem.designed.nonzero()[0]] = (letters[0, problem.designed.nonzero()[0]] + 1) % 20
    assert problem.recovery(letters)[0] == pytest.approx(0.9)


# --- the released weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released() -> ProteinMPNN:
    try:
        return load_proteinmpnn(proteinmpnn_path())
    except InputError as error:
        pytest.skip(str(error))


def native(name: str) -> Redesign:
    try:
        return redesign(read_structure(structure_path(name)))
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "published"), [("6MRR", 0.499), ("5L33", 0.447)])
def test_released_weights_recover_as_much_as_the_published_sampler(
    name: str, published: float, released: ProteinMPNN
) -> None:
    """One residue a step at temperature 0.1; the published code was run once, with orders of its own."""
    problem = native(name)
    model = inverse_folding(released, problem)
    x = decode(model, range(8), problem.places, temperature=0.1, when=one_by_one)
    assert abs(float(problem.recovery(problem.letters(x)).mean()) - published) < 0.05


def test_many_residues_a_step_are_as_good_as_one(released: ProteinMPNN) -> None:
    problem = native("6MRR")
    model = inverse_folding(released, problem)
    nats = {
        steps: float(score(model, problem.letters(decode(model, range(8), steps, temperature=0.1)), 1).designed.mean())
        for steps in (1, 17, 200)
    }
    assert nats[17] < nats[200] + 0.05
    assert nats[1] > nats[200] + 0.05  # all at once is worse: the comparison can tell
