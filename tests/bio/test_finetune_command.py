"""Fine-tuning: the reward rises, the divergence is the exact one, runs go on as they were; the command and its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from degauss.bio.alphabets import DNA
from degauss.bio.fine_tuning import Sampled, Tuning, TuningName, check_plan, compare, fit, look
from degauss.bio.model import SequenceModel, weights_hash
from degauss.bio.rewards import parse_reward
from degauss.bio.sequences import read_sequences
from degauss.core.errors import InputError
from degauss.core.reward.audit import enumerate_law
from degauss.core.train import TrainConfig

from .conftest import random_model

LENGTH = 4
GC = parse_reward("gc:.9-1.")  # -.9 without any G or C, 0 with nothing else

Invoke = Callable[[list[str | Path]], tuple[int, str, str]]
Refused = Callable[[list[str | Path]], str]


def mild(length: int = LENGTH, labels: tuple[str, ...] = ("a", "b")) -> SequenceModel:
    model = random_model(length, labels)
    for name, weight in model.network.named_parameters():
        if name.startswith("outward"):
            weight.data *= 0.5
    return model


def run_of(out: Path, steps: int = 12) -> TrainConfig:
    return TrainConfig(
        out=out, steps=steps, batch_size=16, lr=1e-2, schedule="constant", save_every=4, tracker=None, device="cpu"
    )


def tuning_of(method: TuningName, alpha: float = 0.02) -> Tuning:
    return Tuning(method, alpha, trajectory=4, pool=256, label="b")


# --- the work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["drakes", "path", "weighted"])
def test_the_reward_rises_and_the_model_that_it_starts_with_stays(method: TuningName, tmp_path: Path) -> None:
    base = mild()
    weights = {name: weight.clone() for name, weight in base.network.state_dict().items()}
    tuning = tuning_of(method)
    tuned = fit(base, GC, tuning, run_of(tmp_path))
    before, after = compare(base, tuned, GC, tuning, n=256)
    assert after.rewards.mean() > before.rewards.mean() + 0.05
    assert after.divergence.mean() > 0.01
    assert bool((before.divergence == 0).all())
    for name, weight in base.network.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert tuned.config == base.config
    assert not any(weight.requires_grad for weight in base.network.parameters())


def test_a_large_alpha_keeps_the_model_where_it_was(tmp_path: Path) -> None:
    base, reached = mild(), []
    for alpha in (0.01, 10.0):
        tuning = tuning_of("path", alpha)
        tuned = fit(base, GC, tuning, run_of(tmp_path / str(alpha)))
        reached.append(float(compare(base, tuned, GC, tuning, n=256)[1].divergence.mean()))
    assert reached[1] < 0.3 * reached[0]


def test_the_divergence_is_that_of_the_exact_law_of_paths(tmp_path: Path) -> None:
    base = mild(3)
    tuned = fit(base, GC, tuning_of("path", 0.05), run_of(tmp_path))
    # So many steps that no two positions are restored in one.
    _, after = compare(base, tuned, GC, replace(tuning_of("path"), trajectory=4096), n=2000)
    exact = enumerate_law(tuned.denoiser("b"), base.process, 3, base.denoiser("b"))
    error = float(after.divergence.std()) / 2000**0.5
    assert abs(float(after.divergence.mean()) - float(exact.path_divergence)) < 4 * error
    exact_nats = exact.probability.log()
    own = tuned.log_prob(after.tokens[:5], label="b").nats
    numbers = (after.tokens[:5] * torch.tensor([16, 4, 1])).sum(1)
    assert own == pytest.approx(exact_nats[numbers])
    assert after.log_prob[:5] == pytest.approx(base.log_prob(after.tokens[:5], label="b").nats)


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    for method in ("drakes", "weighted"):
        whole = fit(mild(), GC, tuning_of(method), run_of(tmp_path / method / "whole", 8))
        fit(mild(), GC, tuning_of(method), run_of(tmp_path / method / "cut", 4))
        cut = fit(mild(), GC, tuning_of(method), run_of(tmp_path / method / "cut", 8))
        for name, weight in whole.network.state_dict().items():
            assert torch.equal(weight, cut.network.state_dict()[name]), (method, name)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    check_plan(tmp_path, "0", GC, tuning_of("drakes"))
    check_plan(tmp_path, "0", GC, tuning_of("drakes"))
    with pytest.raises(InputError, match=r"holds a run with alpha = 0\.02, but alpha = 0\.5 is asked for"):
        check_plan(tmp_path, "0", GC, tuning_of("drakes", 0.5))
    with pytest.raises(InputError, match="model_sha256 = 0, but model_sha256 = 1"):
        check_plan(tmp_path, "1", GC, tuning_of("drakes"))


def test_repeats_are_seen_though_they_are_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, (64, 40), generator=generator)
    nats = torch.randn(64, generator=generator, dtype=torch.float64)
    before = Sampled(tokens, nats, nats, torch.zeros(64))
    assert look(before, before, 4).warnings == []
    repeats = DNA.encode(["AT" * 20] * 64)
    said = " ".join(look(before, Sampled(repeats, nats, nats + 9, torch.ones(64)), 4).warnings)
    for sign in ("alike", "only 2 % of the designs are different", "simpler", "likelier"):
        assert sign in said
    assert "less likely" in " ".join(look(before, before._replace(log_prob=nats - 9), 4).warnings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"method": "weighted", "alpha": 0.0}, "alpha must be above 0"),
        ({"truncate": 33}, "truncate must be between 1 and 32"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"method": "weighted", "rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Tuning(**settings)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    mild(12).save(path)
    return path


def finetune(folder: Path, *words: str | Path) -> list[str | Path]:
    quick = ["--steps", "3", "--batch", "4", "--trajectory", "4", "--samples", "32", "--pool", "64", "--out", "run"]
    return ["finetune", "--model", folder, *quick, "--label", "b", "--device", "cpu", *words]


def test_a_model_is_fine_tuned_and_designs_with(invoke: Invoke, refused: Refused, folder: Path) -> None:
    words = finetune(folder, "--reward", "motif:TGACTCA", "--reward", "gc:.5-.6", "--alpha", ".5")
    status, out, _ = invoke(words)
    assert status == 0
    assert out.startswith("wrote run/model: reward ")
    card = json.loads(Path("run/model/card.json").read_text())
    assert card["finetuned_from"] == {"model": str(folder), "sha256": weights_hash(folder)}
    assert card["reward"] == "1*motif:TGACTCA + 1*gc:0.5-0.6"
    assert (card["method"], card["alpha"], card["label"], card["steps"]) == ("drakes", 0.5, "b", 3)
    assert set(card["reached"]) == {"samples", "reward_before", "reward", "reward_error", "kl_nats", "kl_error"}
    assert {"too_likely", "too_unlikely", "pair_distance", "simple"} < set(card["naturalness"])
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert {"reward", "divergence"} < set(lines[-1])
    assert "holds a run with alpha = 0.5" in refused_in_place(invoke, [*words, "--alpha", ".6"])

    drakes = ["design", "--model", "run/model", "--method", "drakes", "--reward", "fold", "--n", "3", "--steps", "6"]
    assert invoke([*drakes, "--require", "TGACTCA"])[0] == 0
    records = read_sequences("designs.fasta")
    assert {record.labels["label"] for record in records} == {"b"}  # the label that it was made for
    assert all("TGACTCA" in record.sequence or "TGAGTCA" in record.sequence for record in records)
    assert "needs natural sequences" in refused([*drakes, "--held-out", "gc:.4-.6"])


def refused_in_place(invoke: Invoke, words: list[str | Path]) -> str:
    """The sentence of a refusal in a folder that has files already."""
    status, _, error = invoke(words)
    assert status == 2
    return error


def test_a_black_box_is_for_other_methods(invoke: Invoke, refused: Refused, folder: Path) -> None:
    assert refused(finetune(folder, "--reward", "fold")) == (
        "method drakes differentiates the reward, which fold:stable does not allow; path and weighted take any reward."
    )
    assert invoke(finetune(folder, "--reward", "fold", "--method", "weighted"))[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reward", "gcc"], "there is no reward 'gcc'"),
        (["--reward", "gc:.4-.6", "--label", "c"], "label must be one of 'a', 'b'"),
        (["--reward", "gc:.4-.6", "--alpha", "-1"], "alpha must be at least 0"),
        (["--reward", "gc:.4-.6", "--samples", "1"], "samples must be at least 2"),
        (["--reward", "gc:.4-.6", "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_refusals(refused: Refused, folder: Path, words: list[str], said: str) -> None:
    assert said in refused(finetune(folder, *words))
