"""Fitness models: they learn epistasis, doubt themselves away from the data, and come back from their folder."""

from __future__ import annotations

import itertools

import pytest
import torch

from degauss.bio.fitness import FitnessConfig, FitnessModel, fit, judge, recipe
from degauss.bio.motifs import one_hot
from degauss.bio.predictor_training import Examples
from degauss.core.errors import InputError


def landscape() -> Examples:
    """Two sites of 20 letters, with effects of each and one of a pair: all 400 variants."""
    tokens = torch.tensor(list(itertools.product(range(20), repeat=2)))
    effect = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair = 3.0 * ((tokens[:, 0] < 6) & (tokens[:, 1] > 12))
    return Examples(tokens, (4 + effect[0, tokens[:, 0]] + effect[1, tokens[:, 1]] + pair)[:, None])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trained on variants without the letters 18 and 19."""
    out, whole = tmp_path_factory.mktemp("fitness") / "run", landscape()
    seen = (whole.tokens < 18).all(1)
    chosen = torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.8
    model = fit(
        FitnessConfig(2, hidden=32), whole.take(seen & chosen), whole.take(seen & ~chosen), recipe(out, steps=400)
    )
    return model, out, whole, seen, chosen


def test_it_predicts_variants_that_it_has_not_seen(trained):
    model, _, whole, seen, chosen = trained
    figures = judge(model, whole.take(seen & ~chosen))
    assert figures["spearman"] > 0.9
    assert figures["rmse"] < 0.5 * float(whole.labels.std())


def test_it_doubts_itself_where_there_were_no_data(trained):
    model, _, whole, seen, _ = trained
    doubt = model.members(one_hot(whole.tokens, 20)).std(0)
    assert float(doubt[~seen].mean()) > 2 * float(doubt[seen].mean())


def test_it_comes_back_from_its_folder(trained):
    model, out, whole, _, _ = trained
    again = FitnessModel.load(out / "model")
    weights = one_hot(whole.tokens, 20)
    assert torch.equal(again.score(weights, 1.0), model.score(weights, 1.0))


def test_members_that_agree_have_a_gradient_all_the_same():
    model = FitnessModel.new(FitnessConfig(2, hidden=4))
    for weight in model.network.parameters():
        weight.data[:] = weight.data[:1]
    weights = one_hot(torch.tensor([[1, 2]]), 20).requires_grad_()
    (gradient,) = torch.autograd.grad(model.score(weights, 1.0).sum(), weights)
    assert gradient.isfinite().all()


def test_a_fitness_that_never_changes_cannot_be_learnt(tmp_path):
    flat = Examples(torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, 1))
    with pytest.raises(InputError, match="standard deviation of 0"):
        fit(FitnessConfig(2), flat, flat, recipe(tmp_path / "run", steps=1))
    with pytest.raises(InputError, match="members must be at least 2"):
        FitnessConfig(2, members=1)
