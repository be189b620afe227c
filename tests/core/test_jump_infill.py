"""Infilling: what is given stays, and the rest has the conditional law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from degauss.core import InputError, Noise
from degauss.core.jump import (
    FREE,
    Absorbing,
    Cosine,
    Given,
    Uniform,
    ancestral,
    capped,
    confident,
    entropy_bounded,
    first_hitting,
    remasking,
    rescaled,
    sample_tokens,
    skipping,
    tau_leaping,
)
from degauss.core.jump.oracle import Tabular, ancestral_steps, joint_of, number_of, sampler_law, sequences
from degauss.core.observe import Trajectory

DOUBLE = torch.float64
V, L = 3, 4
TEMPLATE = torch.tensor([FREE, 2, FREE, FREE])


def table() -> Tabular:
    u = Noise(5, (0,)).uniform(torch.empty(1, *[V] * L, dtype=DOUBLE))[0]
    return Tabular(u**3 + 0.01)


SOLVERS: dict[str, Any] = {
    "ancestral": ancestral(),
    "skipping": skipping(),
    "tau-leaping": tau_leaping(),
    "first-hitting": first_hitting(),
    "confident": confident(temperature=1.0),
    "entropy-bounded": entropy_bounded(0.3),
    "capped": remasking(capped(0.01)),
    "rescaled": remasking(rescaled(0.02)),
}
CASES = [
    *[pytest.param(Absorbing(V, Cosine()), solver, id=f"absorbing-{name}") for name, solver in SOLVERS.items()],
    pytest.param(Uniform(V), ancestral(), id="uniform-ancestral"),
    pytest.param(Uniform(V), tau_leaping(), id="uniform-tau-leaping"),
]


@pytest.mark.parametrize(("process", "solver"), CASES)
def test_given_tokens_never_change(process: Any, solver: Any) -> None:
    """Any pattern, a different one for each row, at every step."""
    data, n = table(), 16
    patterns = sequences(2, L).bool()
    tokens = data.draw(Noise(1, range(n)))
    template = torch.where(patterns, tokens, FREE)
    path = Trajectory()
    x = sample_tokens(
        data.denoiser(process), process, (n, L), solver=solver, steps=6, template=template, observe=[path]
    )
    for state in path.stack():
        assert torch.equal(state[patterns], tokens[patterns])
    assert int(x.min()) >= 0
    assert int(x.max()) < V


# The order of the others is not that of the process: their law is another one.
LAWFUL = [case for case in CASES if str(case.id).split("-", 1)[1] not in ("confident", "entropy-bounded")]


@pytest.mark.parametrize(("process", "solver"), LAWFUL)
def test_the_rest_has_the_conditional_law(process: Any, solver: Any) -> None:
    """With the true denoiser and steps enough to hide their error behind that of 1500 samples."""
    data, n = table(), 1500
    exact = solver is SOLVERS["first-hitting"]
    x = sample_tokens(
        data.denoiser(process), process, (n, L), solver=solver, steps=L if exact else 60, template=TEMPLATE, seed=3
    )
    law = data.given(TEMPLATE)
    counts = torch.bincount(number_of(x, V), minlength=len(law))
    assert int(counts[law == 0].sum()) == 0
    assert stats.chisquare(counts[law > 0], n * law[law > 0]).pvalue > 1e-3
    # The test can tell: samples that ignore the given token fail it.
    other = torch.bincount(number_of(data.draw(Noise(0, range(n)))[:, [0, 2, 3]], V), minlength=V**3)
    assert stats.chisquare(other, n * law[law > 0]).pvalue < 1e-6


@pytest.mark.parametrize("process", [Absorbing(V), Uniform(V)], ids=["absorbing", "uniform"])
def test_the_conditional_law_is_the_limit(process: Any) -> None:
    """Pushed through the steps exactly: the distance to the conditional table falls with the step."""
    data = table()
    truth = torch.zeros(process.symbols**L, dtype=DOUBLE)
    truth[number_of(data.sequences, process.symbols)] = data.given(TEMPLATE)
    states = sequences(process.symbols, L)
    held = (states[:, 1] == 2).double()
    if isinstance(process, Absorbing):
        start = (states == torch.tensor([V, 2, V, V])).all(1).double()
        denoiser: Any = data.denoiser(process)
    else:
        start = held / held.sum()
        denoiser = Given(data.denoiser(process), TEMPLATE.expand(len(states), L) == FREE)
    free = ancestral_steps(denoiser, process)

    def step(x: Tensor, t: float, s: float) -> Tensor:
        weights = free(x, t, s)
        # States that contradict the template have no mass; whatever is said about them is not used.
        weights = torch.where((x[:, 1] == 2)[:, None, None], weights, torch.zeros_like(weights))
        weights[:, 1] = 0
        weights[:, 1, 2] = 1
        return weights

    errors = []
    for steps in (16, 32, 64):
        grid = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
        law = sampler_law(start, step, process.symbols, grid, L)
        errors.append(0.5 * float((law - truth).abs().sum()))
    assert errors[2] < 0.02
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.15)


def test_joint_of_marginals() -> None:
    marginals = torch.tensor([[[0.2, 0.8], [0.5, 0.5]]])
    torch.testing.assert_close(joint_of(marginals), torch.tensor([[0.1, 0.1, 0.4, 0.4]]))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (torch.tensor([0, 1, 3, FREE]), "tokens 0 to 2, or -1 where it is free, but is 3 at position 2"),
        (torch.tensor([0, -2, 1, 1]), "but is -2 at position 1"),
        (torch.tensor([[0, 1, 1, FREE], [0, 1, 1, 5]]), "but is 5 at position 3"),
        (torch.tensor([0, 1, 1]), "with length 4"),
        (torch.zeros(4), "must be integers"),
        (torch.zeros(3, 4, dtype=torch.long), "has 3 rows, but 2 samples"),
    ],
)
def test_bad_templates_are_refused(template: Tensor, words: str) -> None:
    process = Absorbing(V)
    with pytest.raises(InputError, match=words):
        sample_tokens(table().denoiser(process), process, (2, L), solver=ancestral(), steps=2, template=template)
