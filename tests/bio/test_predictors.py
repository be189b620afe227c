"""Predictors: they learn what is there, go on where they stopped, and are split so that nothing is shared."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from degauss.bio.alphabets import DNA, reverse_complement
from degauss.bio.datasets import Site
from degauss.bio.kmers import words
from degauss.bio.motifs import one_hot
from degauss.bio.predictor_training import Examples, central, fit, judge, losses, recipe, scaled, site_examples
from degauss.bio.predictors import Predictor, PredictorConfig
from degauss.bio.splits import chromosomes, clusters, share_out
from degauss.core.errors import InputError

LENGTH = 32


def planted(n: int, seed: int) -> Examples:
    """Class 0 has TGACTCA somewhere, on either strand; class 1 has nothing; class 2 has GGGCGGGG."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, (n, LENGTH), generator=generator)
    labels = torch.arange(n) % 3
    for row in range(n):
        place = int(torch.randint(LENGTH - 8, (1,), generator=generator))
        for kind, word in ((0, "TGACTCA"), (2, "GGGCGGGG")):
            if labels[row] == kind:
                letters = DNA.encode(word)
                tokens[row, place : place + len(word)] = letters if row % 2 else reverse_complement(letters)
    return Examples(tokens, labels)


CONFIG = PredictorConfig(("ap1", "none", "sp1"), LENGTH, channels=16, kernel=9, blocks=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("predictor") / "run"
    return fit(CONFIG, planted(1200, 0), planted(150, 1), recipe(out, steps=150, lr=1e-2)), out


def test_it_learns_motifs_on_either_strand(trained):
    predictor, _ = trained
    figures = judge(predictor, planted(600, 2))
    assert set(figures.by_target) == {"auroc_ap1", "auroc_none", "auroc_sp1"}
    assert min(figures.by_target.values()) > 0.9
    assert figures.loss < 0.6 < math.log(3)


def test_both_strands_answer_alike(trained):
    predictor, _ = trained
    tokens = planted(9, 3).tokens
    there, back = (predictor.outputs(one_hot(strand)) for strand in (tokens, reverse_complement(tokens)))
    torch.testing.assert_close(there, back)


def test_the_model_that_is_kept_is_the_best_on_the_validation_set(trained):
    import json

    predictor, out = trained
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tried = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert len(tried) == 10
    kept = json.loads((out / "model" / "config.json").read_text())["metrics"]["valid_loss"]
    assert kept == pytest.approx(min(tried), rel=1e-5)
    assert judge(predictor, planted(150, 1)).loss == pytest.approx(kept, rel=1e-5)


def test_a_run_that_was_cut_ends_with_the_same_weights(tmp_path):
    train, valid = planted(60, 0), planted(30, 1)
    whole = fit(CONFIG, train, valid, recipe(tmp_path / "a", steps=12, batch=8, evaluate_every=4))

    class Cut(Exception):
        pass

    seen = []

    def cutting(*given):
        seen.append(0)
        if len(seen) == 3:  # in the third evaluation, after the checkpoint of step 8
            raise Cut
        return original(*given)

    from dataclasses import replace

    from degauss.bio import predictor_training

    original = predictor_training.judge
    monkey = pytest.MonkeyPatch()
    monkey.setattr(predictor_training, "judge", cutting)
    config = replace(recipe(tmp_path / "b", steps=12, batch=8, evaluate_every=4), save_every=8)
    with pytest.raises(Cut):
        fit(CONFIG, train, valid, config)
    monkey.undo()
    again = fit(CONFIG, train, valid, config)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, again.network.state_dict()[name]), name


def test_a_predictor_comes_back_from_its_folder(trained, tmp_path):
    predictor, out = trained
    again = Predictor.load(out / "model")
    weights = one_hot(planted(5, 4).tokens)
    assert torch.equal(again.outputs(weights), predictor.outputs(weights))
    assert again.config == predictor.config
    (out / "model" / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        Predictor.load(out / "model")
    (tmp_path / "config.json").rename(out / "model" / "config.json")


def test_values_are_standardised_and_come_back_in_their_units(tmp_path):
    tokens = planted(600, 0).tokens
    values = 100 + 30 * ((tokens == 1) | (tokens == 2)).double().mean(1, keepdim=True)
    examples = Examples(tokens, values)
    config = PredictorConfig(
        ("gc",), LENGTH, "values", channels=16, kernel=5, blocks=0, dropout=0, mean=(0,), spread=(1,)
    )
    found = scaled(config, examples)
    assert found.mean[0] == pytest.approx(float(values.mean()))
    assert float(losses(found, torch.zeros(600, 1), values).mean()) == pytest.approx(1, abs=1e-5)
    predictor = fit(config, examples, examples, recipe(tmp_path / "run", steps=120, lr=1e-2))
    activity = predictor.activity(one_hot(tokens), "gc")
    assert float((activity - values[:, 0]).abs().mean()) < 0.4 * float((values - values.mean()).abs().mean())
    assert judge(predictor, examples).by_target["pearson_gc"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("one",)}, "targets must be at least 2"),
        ({"kernel": 4}, "kernel must be an odd width"),
        ({"alphabet": "RNA"}, "alphabet must be one of"),
        ({"alphabet": "protein"}, "protein has one strand"),
        ({"kind": "values"}, "mean and spread must be given for each of 3"),
        ({"length": 1}, "length must be at least"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    from dataclasses import replace

    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)


def test_a_value_that_never_changes_cannot_be_learnt():
    config = PredictorConfig(("flat",), LENGTH, "values", mean=(0,), spread=(1,))
    with pytest.raises(InputError, match="flat has a standard deviation of 0"):
        scaled(config, Examples(planted(5, 0).tokens, torch.ones(5, 1)))


# --- splits -------------------------------------------------------------------------------------------------


def test_chromosomes_are_read():
    assert chromosomes("3-5,X") == {"chr3", "chr4", "chr5", "chrX"}
    assert chromosomes("chr2") == {"chr2"}
    for text in ("", "5-3", "1,,2", "a-b"):
        with pytest.raises(InputError, match="chromosomes"):
            chromosomes(text)


def test_sites_are_taken_by_chromosome_and_cut_to_the_middle():
    sites = [Site("chr1", 0, 6, "A", "ACGTTT"), Site("chr2", 0, 6, "B", "CCCGGG"), Site("chr3", 0, 6, "B", "AAAAAA")]
    found = site_examples(sites, chromosomes("1-2"), ("A", "B"), 2)
    assert DNA.decode(found.tokens) == ["GT", "CG"]
    assert found.labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="no site of A on chr2, chr3"):
        site_examples(sites, chromosomes("2-3"), ("A", "B"))
    with pytest.raises(InputError, match="window must be between 1 and 6 letters"):
        central(DNA.encode(["ACGTTT"]), 7)


@given(st.integers(0, 10**6), st.integers(4, 8))
def test_no_word_is_shared_between_clusters_and_links_are_followed(seed, k):
    """Against the definition: components of the graph of sequences that share a word."""
    tokens = torch.randint(4, (14, 24), generator=torch.Generator().manual_seed(seed))
    found = clusters(tokens, k)
    sets = [set(row.tolist()) for row in words(tokens, k)]
    parent = list(range(14))
    for _ in range(14):  # labels spread until nothing changes
        for i in range(14):
            parent[i] = min(parent[j] for j in range(14) if sets[i] & sets[j])
    assert [found.tolist().index(label) for label in found.tolist()] == parent
    assert found[0] == 0


def test_parts_share_no_cluster_and_have_about_their_sizes():
    tokens = torch.randint(4, (300, 40), generator=torch.Generator().manual_seed(0))
    tokens[100:160, :30] = tokens[7, :30]  # a family
    labels = clusters(tokens, 12)
    parts = share_out(labels, (0.5, 0.3, 0.2), seed=1)
    rows = words(tokens, 12)
    for a in range(3):
        for b in range(a):
            assert not torch.isin(rows[parts == a], rows[parts == b]).any()
    assert [int((parts == part).sum()) for part in range(3)] == pytest.approx([150, 90, 60], abs=2)
    assert len(set(parts[[7, *range(100, 160)]].tolist())) == 1
    assert not torch.equal(share_out(labels, (0.5, 0.3, 0.2), seed=2), parts)


def test_one_cluster_cannot_be_split():
    with pytest.raises(InputError, match="1 clusters cannot be shared out into 2 parts"):
        share_out(torch.zeros(9, dtype=torch.int64), (1, 1))


def test_the_promoters_have_clusters_of_relatives(promoters):
    labels = clusters(DNA.encode([promoter.sequence for promoter in promoters]))
    sizes = labels.bincount()
    assert 0.5 * len(labels) < len(sizes) < len(labels)
    assert int(sizes.max()) < 0.1 * len(labels), "single linkage has not joined them all"
