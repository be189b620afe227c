"""StoRM against what it begins with, against SGMSE+ at equal compute, and against tools that people have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median

import torch
from torch import Tensor

from degauss.audio.enhancement import Enhancer, Sampling, estimate
from degauss.audio.mixtures import RATE
from degauss.audio.uncertainty import error_map, ranked_correlation, summary
from degauss.core.claims import Claim, Result, Verdict
from degauss.core.process.predictor_corrector import predictor_corrector
from degauss.core.solvers import solver_of

from ._deepfilternet import deep_filtered, installed
from ._enhancement import (
    CHOSEN,
    TESTED,
    Scores,
    Sounds,
    System,
    by,
    chosen,
    compared,
    denoising,
    gating,
    judged,
    made,
    mixed,
    nothing,
    real_pairs,
    sgmse_model,
    splits_of,
    storm_models,
    tabulated,
)

DRAWS = 4
NOISY, GATING, DEEP, PREDICTIVE = "as it was", "spectral gating", "DeepFilterNet 3", "the predictive model"
STORM, SGMSE = "StoRM, 10 evaluations at most", "SGMSE+, 30 steps"
STRINGS, REAL = "digit strings", "six real pairs"

ABOUT_DEEP = (
    f"{DEEP} hears sounds of 8 kHz resampled to its 48 kHz: it was trained for days on hundreds of hours of full-band "
    "speech, in other languages and noises, and never on half-empty bands."
)

# With the predictive one, ten evaluations at most.
QUICK = {
    "dpmpp, 8 steps": Sampling(solver_of("dpmpp"), 8),
    "dpmpp, 4 steps from t = 0.5": Sampling(solver_of("dpmpp"), 4, start=0.5),
    "ancestral, 9 steps": Sampling(solver_of("ancestral"), 9),
    "reverse diffusion, 9 steps": Sampling(predictor_corrector(corrections=0), 9),
}
PUBLISHED = {
    "predictor-corrector": Sampling(predictor_corrector(), 30),
    "reverse diffusion": Sampling(predictor_corrector(corrections=0), 30),
}

CLAIM = Claim(
    paper="Lemercier et al. 2023, StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and "
    "Dereverberation (IEEE/ACM TASLP), tables I and IV",
    statement="Diffusion that starts from a predictive model's estimate removes noise better than diffusion that "
    "starts from the noisy speech, with a tenth of the steps, and sounds more natural than the estimate.",
    expected="By the medians over seeds, on strings of digits by speakers and in noises that were not trained on, at "
    "0, 5 and 10 dB: (a) the predictive model is above the noisy speech by .35 PESQ-NB, .10 ESTOI and 6 dB SI-SDR; "
    "(b) StoRM with at most 10 evaluations is at or above SGMSE+ with 30 steps and the same training compute in all "
    "three; (c) it is within .03 PESQ and 1 dB of the predictive model; (d) its DNSMOS-SIG is at or above that of the "
    "predictive model. All four: holds. (a) and (b): holds partly. Control: what SGMSE+ makes of the recording of "
    "another string must be below the noisy speech in SI-SDR, or the claim does not hold.",
)


def run(seeds: Sequence[int]) -> Result:
    """Train the models of each seed (kept in out/claims) and judge 18 mixtures and six real pairs."""
    torch.set_num_threads(1)
    peers: dict[str, System] = {NOISY: nothing, GATING: gating} | ({DEEP: deep} if installed() else {})
    names = (*peers, PREDICTIVE, STORM, SGMSE)
    found: dict[str, dict[str, list[Scores]]] = {where: {name: [] for name in names} for where in (STRINGS, REAL)}
    control: list[float] = []
    correlations: list[float] = []
    settings: list[str] = []
    for seed in seeds:
        splits = splits_of(seed)
        task = denoising(splits, seed)
        (storm, predictive), sgmse = storm_models(task, seed), sgmse_model(task, seed)
        valid, test = mixed(splits, "valid", seed, CHOSEN), mixed(splits, "test", seed, TESTED)
        quick, sampling = chosen(storm, QUICK, valid, seed)
        slow, published = chosen(sgmse, PUBLISHED, valid, seed)
        settings.append(f"{quick}; {slow}")
        systems = peers | {
            PREDICTIVE: by(predictive, sampling),
            STORM: by(storm, sampling),
            SGMSE: by(sgmse, published),
        }
        for where, sounds in ((STRINGS, test), (REAL, real_pairs())):
            for name, system in systems.items():
                found[where][name].append(judged(sounds, system))
        wrong = Sounds(test.clean, [*test.noisy[1:], test.noisy[0]])
        control.append(compared(wrong.clean, made(wrong, by(sgmse, published))).si_sdr)
        correlations.append(told(storm, test, sampling))
    verdict = judge(found[STRINGS], control)
    return Result(
        verdict,
        tabulated(found[STRINGS], STRINGS)
        | tabulated(found[REAL], REAL)
        | {
            "digit strings, SI-SDR (dB), SGMSE+ on another string": control,
            f"rank correlation of the spread of {DRAWS} draws with the error": correlations,
        },
        notes=f"Chosen on validation mixtures for each seed: {' | '.join(settings)}. Networks of half a million "
        "weights and some minutes of one core each. "
        f"{ABOUT_DEEP if installed() else f'{DEEP} is not installed: left out.'}",
    )


def deep(noisy: Tensor, number: int) -> Tensor:
    """DeepFilterNet with its own weights."""
    del number
    return deep_filtered(noisy, RATE)


def told(model: Enhancer, sounds: Sounds, sampling: Sampling) -> float:
    """How far the spread of draws tells the error of their mean: over the bins of a sound, the mean over sounds."""
    values: list[float] = []
    for number, (clean, noisy) in enumerate(zip(sounds.clean, sounds.noisy, strict=True)):
        drawn = estimate(model, noisy, replace(sampling, draws=DRAWS), number)
        mean, sd = summary(drawn.draws)
        truth = model.config.spectrum.encode((clean / drawn.peak)[None])[0]
        values.append(ranked_correlation(sd, error_map(mean, truth)))
    return fmean(values)


def judge(found: dict[str, list[Scores]], control: list[float]) -> Verdict:
    """As the claim says."""
    middle = {name: Scores(*(median(column) for column in zip(*rows, strict=True))) for name, rows in found.items()}
    noisy, predictive, storm, sgmse = (middle[name] for name in (NOISY, PREDICTIVE, STORM, SGMSE))
    gain = Scores(*(a - b for a, b in zip(predictive, noisy, strict=True)))
    a = gain.pesq >= 0.35 and gain.estoi >= 0.10 and gain.si_sdr >= 6
    b = storm.pesq >= sgmse.pesq and storm.estoi >= sgmse.estoi and storm.si_sdr >= sgmse.si_sdr
    c = storm.pesq >= predictive.pesq - 0.03 and storm.si_sdr >= predictive.si_sdr - 1
    d = storm.sig >= predictive.sig
    if median(control) >= noisy.si_sdr or not (a and b):
        return "does not hold"
    return "holds" if c and d else "holds partly"
