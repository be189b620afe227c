"""What training is given, that it learns a known law, and that a cut run ends where an uncut one does."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from degauss.bio.alphabets import DNA, reverse_complement
from degauss.bio.model import ModelConfig, SequenceModel
from degauss.bio.nets import ConvNetConfig, TransformerConfig
from degauss.bio.sequences import Record
from degauss.bio.training import (
    Batch,
    MaskedLoss,
    Sequences,
    bits_of,
    card_of,
    classes_of,
    fit,
    held_out,
    net_of,
    recipe,
)
from degauss.core.errors import InputError
from degauss.core.jump import exact_bound
from degauss.core.noise import Noise

from .conftest import random_model


def test_each_sequence_once_an_epoch():
    tokens = torch.arange(4)[:, None].expand(4, 3)
    data = Sequences(tokens.to(torch.uint8), torch.arange(4), 3)
    batch = data(range(8))
    assert batch.tokens.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 0], batch.labels)
    for epoch in batch.labels.split(4):
        assert sorted(epoch.tolist()) == [0, 1, 2, 3]
    assert torch.equal(data([5, 2]).tokens, batch.tokens[[5, 2]])


def test_windows_at_every_place():
    data = Sequences(torch.arange(6)[None] % 4, torch.zeros(1).long(), 4)
    windows = {tuple(row) for row in data(range(200)).tokens.tolist()}
    assert windows == {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1)}
    with pytest.raises(ValueError, match="tokens"):
        Sequences(torch.zeros(2, 3), torch.zeros(2), 4)


def test_both_strands():
    tokens = DNA.encode(["AACC"])
    rows = Sequences(tokens, torch.zeros(1).long(), 4, both_strands=True)(range(200)).tokens
    turned = (rows == reverse_complement(tokens)).all(1)
    assert ((rows == tokens).all(1) | turned).all()
    assert 70 < int(turned.sum()) < 130


def test_copies_are_on_one_side():
    sequences = ["ACGT", "acgt", "AAAA", "ACGT", *("ACGT"[i % 4] * 3 + "ACGT"[i // 4] for i in range(16))]
    out = held_out(sequences, 0.3, seed=1)
    assert len(set(out[[0, 1, 3]].tolist())) == 1
    different = {sequence.upper() for sequence in sequences}
    assert len({s.upper() for s, o in zip(sequences, out, strict=True) if o}) == round(0.3 * len(different))
    assert not torch.equal(out, held_out(sequences, 0.3, seed=2))
    assert int(held_out(["A", "C"], 0.01).sum()) == 1
    with pytest.raises(InputError, match="1 different sequences"):
        held_out(["A", "a"], 0.5)
    with pytest.raises(InputError, match="between 0 and 1"):
        held_out(["A", "C"], 1.0)


def test_classes():
    records = [Record("a", "A", "", {"cell": "K562"}), Record("b", "C", "", {"cell": "HepG2"})]
    names, labels = classes_of("x.csv", records, "cell")
    assert (names, labels.tolist()) == (("HepG2", "K562"), [1, 0])
    assert classes_of("x.csv", records, None)[0] == ()
    with pytest.raises(InputError, match=r"^x\.csv: record 'a' has no label 'type'; its labels are cell\.$"):
        classes_of("x.csv", records, "type")


def test_the_loss_is_the_bound_in_bits_a_letter():
    model = random_model(5, ("a", "b"))
    x = torch.randint(4, (1, 5), generator=torch.Generator().manual_seed(0)).expand(4000, 5)
    for dropped, label in ((0.0, "b"), (1.0, None)):
        batch = Batch(x, torch.ones(4000, dtype=torch.long))
        bits = MaskedLoss(model.config, dropped)(model.network, batch, Noise(0, range(4000)))
        exact = exact_bound(model.denoiser(label), model.process, x[:1]) / (5 * math.log(2))
        assert float(bits.mean()) == pytest.approx(float(exact), abs=4 * float(bits.std()) / 4000**0.5)


def test_labels_are_dropped_as_often_as_is_asked():
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Module):
        def forward(self, x, t, label):
            seen.append(label)
            return torch.zeros(*x.shape, 4)

    config = ModelConfig(DNA, 5, labels=("a", "b"))
    batch = Batch(torch.zeros(2000, 5).long(), torch.arange(2000) % 2)
    MaskedLoss(config, 0.2)(Network(), batch, Noise(0, range(2000)))
    none = seen[0] == 2
    assert 330 < int(none.sum()) < 470
    assert torch.equal(seen[0][~none], batch.labels[~none])
    with pytest.raises(InputError, match="labels to drop"):
        MaskedLoss(config, 1.5)


def test_networks_of_a_length():
    assert net_of("conv", 100, 8, 6) == ConvNetConfig(8, 9, (1, 1, 4, 16, 24, 1))
    assert net_of("conv", 4, 8, 2) == ConvNetConfig(8, 9, (1, 1))
    assert net_of("transformer", 4, 16, 2, 0.1) == TransformerConfig(16, 2, 4, 0.1)
    with pytest.raises(InputError, match="the network cannot be made"):
        net_of("transformer", 4, 12, 2)
    with pytest.raises(InputError, match="depth"):
        net_of("conv", 4, 12, 0)


# --- runs ---


def pairs(count: int, seed: int = 0) -> Batch:
    """Class 0: a letter twice; class 1: a letter and its complement. 2 bits a pair for who knows the class, else 3."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(4, (count,), generator=generator)
    label = torch.randint(2, (count,), generator=generator)
    return Batch(torch.stack([first, torch.where(label == 1, 3 - first, first)], 1), label)


CONFIG = ModelConfig(DNA, 2, ConvNetConfig(16, 3, (1, 1)), ("same", "other"))


def test_a_known_law_is_learned_with_and_without_its_class(here):
    train = pairs(4000)
    settings = recipe(here / "run", steps=150, batch=64, lr=2e-2, ema=0.95, save_every=150, device="cpu")
    model = fit(CONFIG, Sequences(*train, 2), pairs(200, 1), settings, dropped=0.3)
    test = pairs(1000, 2)
    assert bits_of(model, test, labelled=True).mean == pytest.approx(2 / 2, abs=0.03)
    assert bits_of(model, test, labelled=False).mean == pytest.approx(3 / 2, abs=0.03)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["valid_bits"] for line in lines if "valid_bits" in line] == [pytest.approx(1.0, abs=0.2)]
    card = card_of(model, Sequences(*train, 2), test, settings, {"file": "pairs"})
    metrics = card["metrics"]
    assert metrics["bits_per_letter"] == pytest.approx(1.5, abs=0.03)
    assert metrics["bits_per_letter_given_class"] == pytest.approx(1.0, abs=0.03)
    assert metrics["markov_bits_per_letter"] == {"0": pytest.approx(2, abs=0.01), "1": pytest.approx(1.5, abs=0.02)}
    assert metrics["letters_by_place_bits_per_letter"] == pytest.approx(2, abs=0.01)
    json.dumps(card)


def test_a_cut_run_ends_where_an_uncut_one_does(here):
    data = Sequences(*pairs(100), 2, both_strands=True)
    whole = recipe(here / "whole", steps=6, batch=8, save_every=2, device="cpu")
    expected = fit(CONFIG, data, None, whole)
    cut = replace(whole, out=here / "cut")

    class Cut(Exception):
        pass

    class Failing(Sequences):
        def __call__(self, samples):
            if samples[0] >= 4 * 8:
                raise Cut
            return super().__call__(samples)

    with pytest.raises(Cut):
        fit(CONFIG, Failing(data.tokens, data.labels, 2, both_strands=True), None, cut)
    found = fit(CONFIG, data, None, cut)
    for name, weight in expected.network.state_dict().items():
        assert torch.equal(weight, found.network.state_dict()[name]), name
    assert SequenceModel.load(here / "cut" / "model").config == CONFIG


def test_a_run_of_other_sequences_is_not_gone_on_with(here):
    data = Sequences(torch.zeros(8, CONFIG.length, dtype=torch.long), torch.zeros(8).long(), CONFIG.length)
    other = Sequences(torch.ones(8, CONFIG.length, dtype=torch.long), torch.zeros(8).long(), CONFIG.length)
    fit(CONFIG, data, None, recipe(here / "run", steps=1, batch=2, device="cpu"))
    with pytest.raises(InputError, match=r"run holds the training of a model with sequences = \w{12}, but sequences ="):
        fit(CONFIG, other, None, recipe(here / "run", steps=2, batch=2, device="cpu"))


@pytest.mark.slow
def test_the_script_that_trains_the_shipped_protein_model(here, variants):
    import degauss.bio

    script = Path(degauss.bio.__file__).parents[3] / "examples" / "train_shipped_protein.py"
    words = [sys.executable, script, "run", "--steps", "2", "--device", "cpu"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["sequences"] == {"trained": 9803, "held_out": 1089}
    assert card["metrics"]["letters_by_place_bits_per_letter"] == pytest.approx(3.848, abs=0.001)


def test_the_card_counts_both_strands():
    model = random_model(6)
    train = torch.zeros(50, 6, dtype=torch.long)  # A on one strand, T on the other
    test = Batch(torch.full((3, 6), 3), torch.zeros(3, dtype=torch.long))
    settings = recipe(Path("never"), steps=1)
    one, both = (
        card_of(model, Sequences(train, torch.zeros(50).long(), 6, strands), test, settings, {})
        for strands in (False, True)
    )
    assert one["metrics"]["markov_bits_per_letter"]["0"] >= 2
    assert both["metrics"]["markov_bits_per_letter"]["0"] == pytest.approx(1, abs=0.05)
