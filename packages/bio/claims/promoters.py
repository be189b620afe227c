"""Promoters of E. coli: does what a reward finds convince a predictor of other promoters, and a model of physics?"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from degauss.bio.alphabets import DNA
from degauss.bio.hacking import Scores
from degauss.bio.metrics import dinucleotide_entropy, kmer_correlation, pair_distance, spearman
from degauss.core.claims import Claim, Result, Verdict
from degauss.core.denoiser import Denoiser
from degauss.core.jump import FREE, Absorbing, Subs
from degauss.core.posterior import Categorical
from degauss.core.reward import SMC, BestOf, Drakes, DrakesConfig, Hardened, Method, design, finetune
from degauss.core.train import TrainConfig

from ._promoters import LENGTH, VOCABULARY, Effort, Problem, installed, predicted, problem, transcription_rates

CLAIM = Claim(
    paper=(
        "Wang et al. 2024, Fine-Tuning Discrete Diffusion Models via Reward Optimization with Applications to DNA and "
        "Protein Design (DRAKES), section 6.1, on promoters of E. coli in place of human enhancers; La Fleur et al. "
        "2022, Automated model-predictive design of synthetic promoters to control transcriptional profiles in bacteria"
    ),
    statement=(
        "With a divergence from the pretrained model, fine-tuning finds promoters whose strength predictors confirm "
        "that had no part in it."
    ),
    expected=(
        "With clusters of promoters held apart, in the median over seeds: (a) the pretrained model has fewer bits a "
        "base than the Markov model of order 6 on the same promoters; (b) DRAKES raises the held-out predictor's "
        "median by at least 1.5 standard deviations of its scores of natural promoters over the pretrained model's, "
        "at a pair distance of at least 0.9 of theirs; (c) where the thermodynamic model is installed, its median rate "
        "is at least five times the pretrained model's. The other methods are shown beside."
    ),
)

PROCESS = Absorbing(VOCABULARY)
EFFORT = Effort()
STEPS, PARTICLES, BATCH, AT_ONCE = 24, 32, 16, 32
CONFIG = DrakesConfig(steps=16, truncate=8, straight_through=True, restoring="timed", checkpointing=False)
ALPHAS = (0.03, 0.1, 0.3)  # units of the logarithm of expression for a nat
TEMPLATE = torch.full((LENGTH,), FREE)
CHOOSING = 1 << 20  # sample ids of designs that alpha is chosen by

Draw = Callable[[range], Tensor]


def run(seeds: Sequence[int], effort: Effort = EFFORT) -> Result:
    posed = problem(effort)
    chosen: dict[str, float] = {}
    for name, make in (("DRAKES", fine_tuned), ("SMC", particles)):
        rows = range(CHOOSING, CHOOSING + effort.chosen)
        scores = {
            alpha: float(posed.validation.score(drawn(make(posed, alpha, seeds[0], effort), rows)).median())
            for alpha in ALPHAS
        }
        chosen[name] = max(ALPHAS, key=scores.__getitem__)
    found = [one(posed, chosen, seed, effort) for seed in seeds]
    figures: dict[str, list[float]] = {name: [value] for name, value in posed.figures.items()}
    figures |= {name: [values[name] for values in found] for name in found[0]}
    asked = (
        f"The thermodynamic model was asked about {effort.asked} designs of each method."
        if installed()
        else "The thermodynamic model is not installed on this machine, so part (c) was not tested and is not counted."
    )
    return Result(
        verdict(figures),
        figures,
        notes=(
            f"Alpha, one of {', '.join(map(str, ALPHAS))}, was chosen by the validation oracle: "
            + ", ".join(f"{name} {alpha}" for name, alpha in chosen.items())
            + f". There is one pretrained model; seeds are those of fine-tuning and of sampling. {effort.designs} "
            f"designs a seed and method, {STEPS} steps. Gains are in standard deviations of natural promoters' scores. "
            + asked
        ),
    )


def verdict(figures: dict[str, list[float]]) -> Verdict:
    def of(figure: str, name: str) -> float:
        return median(figures[f"{figure}, {name}"])

    met = [
        of("bits a base", "pretrained") < of("bits a base", "Markov of order 6"),
        of("held-out gain", "DRAKES") - of("held-out gain", "pretrained") >= 1.5
        and of("pair distance", "DRAKES") >= 0.9 * of("pair distance", "natural"),
    ]
    if installed():
        met.append(of("thermodynamic rate", "DRAKES") >= 5 * of("thermodynamic rate", "pretrained"))
    return "holds" if all(met) else "holds partly" if any(met) else "does not hold"


# --- the experiment -----------------------------------------------------------------------------------------


def one(posed: Problem, chosen: dict[str, float], seed: int, effort: Effort) -> dict[str, float]:
    """All figures of one seed."""
    figures = {"pair distance, natural": pair_distance(posed.natural, VOCABULARY)}
    draws = {
        "pretrained": searched(posed, seed, BestOf()),
        "best of 8": searched(posed, seed, BestOf(8)),
        "SMC": particles(posed, chosen["SMC"], seed, effort),
        "DRAKES": fine_tuned(posed, chosen["DRAKES"], seed, effort),
        "DRAKES without divergence": fine_tuned(posed, 0.0, seed, effort),
    }
    pairs: list[Tensor] = []
    for name, draw in draws.items():
        began = time.process_time()
        tokens = drawn(draw, range(effort.designs))
        cost = (time.process_time() - began) / effort.designs
        reward, held_out = (
            Scores(predicted(predictor, tokens), predicted(predictor, posed.natural))
            for predictor in (posed.reward, posed.held_out)
        )
        figures |= {
            f"reward gain, {name}": reward.gain,
            f"held-out gain, {name}": held_out.gain,
            f"correlation of 3-mers with natural promoters, {name}": kmer_correlation(tokens, posed.natural),
            f"median log p under the pretrained model, nats, {name}": float(
                posed.model.log_prob(tokens, draws=4).nats.median()
            ),
            f"pair distance, {name}": pair_distance(tokens, VOCABULARY),
            f"complexity, bits, {name}": float(dinucleotide_entropy(tokens).median()),
            f"CPU seconds a sequence, {name}": cost,
        }
        if installed():
            some = slice(None, None, effort.designs // effort.asked)  # of all groups of particles
            rates = transcription_rates(DNA.decode(tokens[some]))
            figures[f"thermodynamic rate, {name}"] = float(rates.median())
            pairs.append(torch.stack([reward.designs[some].double(), rates]))
    if pairs:
        correlation = spearman(*torch.cat(pairs, 1))
        figures["rank correlation of reward and thermodynamic rate, designs of all methods"] = correlation
    return figures


def drawn(draw: Draw, rows: range) -> Tensor:
    return torch.cat([draw(rows[first : first + AT_ONCE]) for first in range(0, len(rows), AT_ONCE)])


def searched(posed: Problem, seed: int, method: Method, denoiser: Denoiser[Categorical] | None = None) -> Draw:
    """A search, or plain sampling, which is the best of one."""
    plain = posed.model.denoiser() if denoiser is None else denoiser
    reward = Hardened(posed.soft, VOCABULARY)

    def draw(rows: range) -> Tensor:
        shape = (len(rows), LENGTH)
        return design(plain, PROCESS, shape, reward, method=method, steps=STEPS, seed=seed, samples=rows).tokens

    return draw


def particles(posed: Problem, alpha: float, seed: int, effort: Effort) -> Draw:
    del effort
    return searched(posed, seed, SMC(alpha, PARTICLES))


def fine_tuned(posed: Problem, alpha: float, seed: int, effort: Effort) -> Draw:
    """DRAKES, sampled plainly."""
    network = copy.deepcopy(posed.model.network).requires_grad_(True)
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # its randomness would count as divergence
    objective = Drakes(PROCESS, posed.soft, replace(CONFIG, alpha=alpha))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainConfig(
            out=Path(folder),
            steps=effort.iterations,
            batch_size=BATCH,
            lr=5e-4,
            seed=seed,
            tracker=None,
            save_every=effort.iterations,
            device="cpu",
        )
        finetune(network, objective, PROCESS, TEMPLATE, settings)
    return searched(posed, seed, BestOf(), Subs(network.eval().requires_grad_(False), PROCESS))
