"""StoRM, its predictive model and SGMSE+ on speech in rooms, and weighted prediction error beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from degauss.audio.enhancement import Sampling
from degauss.audio.mixtures import RATE, Mixtures, Splits
from degauss.audio.rooms import Reverberant, SomeInRooms
from degauss.core.claims import Claim, Result, Verdict
from degauss.core.process.predictor_corrector import predictor_corrector
from degauss.core.solvers import solver_of

from ._enhancement import (
    CHOSEN,
    RATIOS,
    SECONDS,
    TESTED,
    Scores,
    Sounds,
    System,
    Task,
    by,
    chosen,
    compared,
    judged,
    made,
    nothing,
    sgmse_model,
    splits_of,
    storm_models,
    tabulated,
)
from ._wpe import predicted_away

WET, WPE, PREDICTIVE = "as it was", "weighted prediction error", "the predictive model"
STORM, SGMSE = "StoRM, 10 evaluations at most", "SGMSE+, 30 steps"

# With the predictive one, ten evaluations at most.
QUICK = {
    "dpmpp, 8 steps": Sampling(solver_of("dpmpp"), 8),
    "dpmpp, 4 steps from t = 0.5": Sampling(solver_of("dpmpp"), 4, start=0.5),
    "ancestral, 9 steps": Sampling(solver_of("ancestral"), 9),
}
PUBLISHED = {
    "predictor-corrector": Sampling(predictor_corrector(snr=0.33), 30),
    "reverse diffusion": Sampling(predictor_corrector(corrections=0), 30),
}

CLAIM = Claim(
    paper="Lemercier et al. 2023, StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and "
    "Dereverberation (IEEE/ACM TASLP), table II",
    statement="Diffusion that starts from a predictive model's estimate removes reverberation better than diffusion "
    "that starts from the reverberant speech, with fewer steps, and sounds more natural than the estimate.",
    expected="By the medians over seeds, on strings of digits by speakers that were not trained on, in rooms of 0.4 to "
    "1.0 s, the dry voice at the same place as the target: (a) the predictive model is above the reverberant speech by "
    ".10 ESTOI and 4 dB SI-SDR; (b) StoRM with at most 10 evaluations is at or above SGMSE+ with 30 steps and the same "
    "training compute in PESQ-NB, ESTOI and SI-SDR; (c) its DNSMOS-SIG is at or above that of the predictive model. "
    "All three: holds. (a) and (b): holds partly. Control: the predictive model on the recording of another string "
    "must be below the reverberant speech in ESTOI, or the claim does not hold.",
)


def silent(mixtures: Mixtures) -> Mixtures:
    """Without noise."""
    return replace(mixtures, noises=[torch.zeros(1)], tilt=0.0)


def reverberant(splits: Splits, part: str, seed: int, count: int) -> Sounds:
    """Four-digit strings, each in a room of its own."""
    pairs = Reverberant(silent(getattr(splits, part).mixtures(RATE, 1000 + seed, seconds=2.2)))
    found = [pairs.pair(number) for number in range(len(RATIOS) * count)]
    return Sounds([dry for dry, _ in found], [wet for _, wet in found])


def run(seeds: Sequence[int]) -> Result:
    """Train the models of each seed (kept in out/claims) and judge 18 strings."""
    torch.set_num_threads(1)
    found: dict[str, list[Scores]] = {name: [] for name in (WET, WPE, PREDICTIVE, STORM, SGMSE)}
    control: list[float] = []
    settings: list[str] = []
    for seed in seeds:
        splits = splits_of(seed)
        task = Task("rooms", SomeInRooms(silent(splits.train.mixtures(RATE, seed, SECONDS)), 1.0))
        (storm, predictive), sgmse = storm_models(task, seed), sgmse_model(task, seed)
        valid, test = reverberant(splits, "valid", seed, CHOSEN), reverberant(splits, "test", seed, TESTED)
        quick, sampling = chosen(storm, QUICK, valid, seed)
        slow, published = chosen(sgmse, PUBLISHED, valid, seed)
        settings.append(f"{quick}; {slow}")
        systems: dict[str, System] = {
            WET: nothing,
            WPE: unpredicted,
            PREDICTIVE: by(predictive, sampling),
            STORM: by(storm, sampling),
            SGMSE: by(sgmse, published),
        }
        for name, system in systems.items():
            found[name].append(judged(test, system))
        wrong = Sounds(test.clean, [*test.noisy[1:], test.noisy[0]])
        control.append(compared(wrong.clean, made(wrong, systems[PREDICTIVE])).estoi)
    return Result(
        judge(found, control),
        tabulated(found, "digit strings in rooms")
        | {"digit strings in rooms, ESTOI, the predictive model on another string": control},
        notes=f"Chosen on validation strings for each seed: {' | '.join(settings)}. Networks of half a million weights "
        "and some minutes of one core each; weighted prediction error has one microphone and 2.2 s to learn from.",
    )


def unpredicted(wet: Tensor, number: int) -> Tensor:
    """Weighted prediction error."""
    del number
    return predicted_away(wet, RATE)


def judge(found: dict[str, list[Scores]], control: list[float]) -> Verdict:
    """As the claim says."""
    middle = {name: Scores(*(median(column) for column in zip(*rows, strict=True))) for name, rows in found.items()}
    wet, predictive, storm, sgmse = (middle[name] for name in (WET, PREDICTIVE, STORM, SGMSE))
    a = predictive.estoi >= wet.estoi + 0.10 and predictive.si_sdr >= wet.si_sdr + 4
    b = storm.pesq >= sgmse.pesq and storm.estoi >= sgmse.estoi and storm.si_sdr >= sgmse.si_sdr
    if median(control) >= wet.estoi or not (a and b):
        return "does not hold"
    return "holds" if storm.sig >= predictive.sig else "holds partly"
