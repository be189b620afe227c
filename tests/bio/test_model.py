"""A model's likelihoods against enumeration, its files, and the names it is found by."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from degauss.bio import model as models
from degauss.bio.alphabets import DNA, PROTEIN, Alphabet
from degauss.bio.model import ModelConfig, SequenceModel, find_model, shipped_models, weights_hash
from degauss.bio.nets import ConvNetConfig, TransformerConfig
from degauss.core.errors import InputError
from degauss.core.files import fingerprint
from degauss.core.jump import elbo, estimate_bound, exact_bound, exact_log_likelihood, lambda_dce
from degauss.core.jump.oracle import sequences

from .conftest import random_model

BINARY = Alphabet("binary", "01", "?")


def test_the_probabilities_of_all_sequences_add_up_to_one():
    model = random_model(4, ("a", "b"))
    everything = sequences(4, 4)
    for label in (None, "a", "b"):
        found = model.log_prob(everything, label=label)
        assert float(found.nats.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert not found.error.any()
    assert not torch.allclose(model.log_prob(everything, label="a").nats, model.log_prob(everything).nats)


@pytest.mark.parametrize("loss", [elbo, lambda_dce])
def test_the_bounds_of_the_losses_agree_with_enumeration(loss):
    model = random_model(5, alphabet=BINARY)
    everything = sequences(2, 5)
    exact = exact_bound(model.denoiser(), model.process, everything)
    estimate = estimate_bound(partial(loss, model.denoiser(), model.process), everything, draws=400)
    assert ((estimate.nats - exact).abs() < 5 * estimate.error + 1e-9).all()
    assert (exact >= -exact_log_likelihood(model.denoiser(), model.process, everything)).all()


def test_longer_sequences_have_the_bound_and_its_error():
    model = random_model(9, alphabet=BINARY)
    x = sequences(2, 9)[::73]
    exact = -exact_bound(model.denoiser(), model.process, x)
    repeats = 300
    found = model.log_prob(x.repeat(repeats, 1), draws=16)
    nats, error = (values.reshape(repeats, -1) for values in found)
    assert float(((nats.mean(0) - exact) / (nats.std(0) / repeats**0.5)).abs().max()) < 4
    ratio = nats.var(0) / error.square().mean(0)
    assert 0.6 < float(ratio.min()) < 1 < float(ratio.max()) < 1.6
    assert (exact < exact_log_likelihood(model.denoiser(), model.process, x)).all()


def test_a_row_has_its_own_noise():
    model = random_model(10)
    x = torch.randint(4, (5, 10), generator=torch.Generator().manual_seed(0))
    together = model.log_prob(x, draws=4, seed=3).nats
    alone = model.log_prob_of(x[[4, 2]], [4, 2], draws=4, seed=3).nats
    torch.testing.assert_close(alone, together[[4, 2]], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model.log_prob(x, draws=4, seed=4).nats, together)
    with pytest.raises(ValueError, match="at least two draws"):
        model.log_prob(x, draws=1)
    with pytest.raises(ValueError, match="for 10 letters, got tokens of shape"):
        model.log_prob(x[:, 1:])


@pytest.mark.parametrize("net", [ConvNetConfig(8, 3, (1, 2)), TransformerConfig(8, 1, 2)])
@pytest.mark.parametrize("alphabet", [DNA, PROTEIN])
def test_what_is_saved_is_loaded(here, net, alphabet):
    model = SequenceModel.new(ModelConfig(alphabet, 6, net, ("a", "b c")), seed=4)
    model.save("m", {"name": "m"})
    again = SequenceModel.load("m")
    assert again.config == model.config
    assert not again.network.training
    x = torch.randint(alphabet.vocabulary, (2, 6))
    with torch.no_grad():
        torch.testing.assert_close(again.network(x), model.network.eval()(x))
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name])
    assert json.loads(Path("m/card.json").read_text()) == {"name": "m"}
    assert weights_hash("m") == fingerprint("m/model.safetensors")


def test_a_new_model_is_its_seeds():
    config = ModelConfig(DNA, 6, ConvNetConfig(8, 3, (1,)))
    first, same, other = (SequenceModel.new(config, seed).network(torch.zeros(1, 6).long()) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphabet": "RNA"}, "configuration is not that of a sequence model"),
        ({"net": {"kind": "mlp"}}, "configuration is not that of a sequence model"),
        ({"net": {"kind": "conv", "depth": 3}}, "configuration is not that of a sequence model"),
        ({"length": 0}, "configuration is not that of a sequence model"),
        ({"labels": ["a"]}, "does not fit the network"),
    ],
)
def test_a_damaged_configuration(here, change, message):
    random_model(6).save("m")
    about = json.loads(Path("m/config.json").read_text())
    about["config"] |= change
    Path("m/config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=message):
        SequenceModel.load("m")


def test_labels():
    with pytest.raises(
        InputError, match=r"label must be one of 'K562', 'HepG2', but is 'K526' \(did you mean 'K562'\?"
    ):
        random_model(4, ("K562", "HepG2")).denoiser("K526")
    with pytest.raises(InputError, match="trained without labels"):
        random_model(4).denoiser("K562")
    with pytest.raises(ValueError, match="different labels"):
        ModelConfig(DNA, 4, labels=("a", "a"))


def test_models_are_found_by_name_and_by_folder(here, monkeypatch):
    shipped = here / "weights"
    monkeypatch.setattr(models, "SHIPPED", shipped)
    with pytest.raises(InputError, match=r"none ships; 'train' makes one"):
        find_model("dna")
    random_model(4).save(shipped / "dna")
    random_model(5).save("dna")
    assert shipped_models() == ["dna"]
    assert find_model("dna") == shipped / "dna"
    assert SequenceModel.load(find_model("./dna")).length == 5
    with pytest.raises(
        InputError, match=r"there is no model 'dma' \(did you mean 'dna'\?\): expected the folder of one"
    ):
        find_model("dma")


@pytest.mark.parametrize("name", shipped_models())
def test_models_that_ship(name):
    folder = models.SHIPPED / name
    model = SequenceModel.load(folder)
    card = json.loads((folder / "card.json").read_text())
    assert card["name"] == name
    assert card["parameters"] == sum(weight.numel() for weight in model.network.parameters())
    assert (folder / "model.safetensors").stat().st_size < 5e6
    assert {"command", "date", "trained_on", "licence", "metrics"} <= card.keys()
    x = torch.randint(model.alphabet.vocabulary, (2, model.length))
    bits = -model.log_prob(x, draws=4).nats / (model.length * math.log(2))
    assert bits.isfinite().all()
