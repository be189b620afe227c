"""Shallow diffusion: started at K from a blurred mel, as good as from noise, and sharp, in less time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from degauss.audio.shallow import at_time, draw
from degauss.core.claims import Claim, Result
from degauss.core.gaussian import ddim

from ._acoustic import TESTED, bounded, corpus, measured, trained

CLAIM = Claim(
    paper=(
        "Liu et al. 2022, DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism (AAAI; section 3.2, "
        "algorithm 2 and tables 1 and 3)"
    ),
    statement=(
        "Started at step K from the auxiliary decoder's diffused mel, K from the boundary predictor, the reverse "
        "process takes K of T steps and gives better mels than from noise, and sharper ones than the decoder."
    ),
    expected=(
        "On synthetic formant speech, ancestral sampling, K by the classifier's margin, medians over seeds: (a) the "
        "mel-cepstral distance from K is at most 0.1 dB above that from noise (T = 100 steps); (b) its delta-variance "
        "ratio to the recordings is between 0.8 and 1.1; (c) it takes at most 1.1 K / T of the time. Control: the "
        "auxiliary decoder's delta-variance ratio is 0.6 or less."
    ),
)


def run(seeds: Sequence[int]) -> Result:
    """Draw 24 test utterances in each way with the model of each seed."""
    torch.set_num_threads(1)
    names = ("distance of the auxiliary", "distance from noise", "distance from K", "delta variance of the auxiliary",
             "delta variance from noise", "delta variance from K", "K", "time from K / from noise")  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        for name, value in zip(names, one(seed), strict=True):
            found[name].append(value)
    middle = {name: median(values) for name, values in found.items()}
    parts = [
        middle["distance from K"] <= middle["distance from noise"] + 0.1,
        0.8 <= middle["delta variance from K"] <= 1.1,
        all(share <= 1.1 * k / 100 for share, k in zip(found["time from K / from noise"], found["K"], strict=True)),
    ]
    blurred = middle["delta variance of the auxiliary"] <= 0.6
    return Result(
        "holds" if all(parts) and blurred else "holds partly" if any(parts) else "does not hold",
        found,
        notes="Distances are mel-cepstral, of an orthonormal cosine transform, in dB; "
        "times are those of one CPU core, and of the denoiser mostly.",
    )


def one(seed: int) -> tuple[float, ...]:
    """The figures of one seed, in the order of their names."""
    model = trained(seed)
    boundary = bounded(seed, model)
    items = corpus(seed, 2, TESTED).items
    seconds = {1.0: 0.0, boundary.t: 0.0}

    def started(t: float, condition: Tensor, number: int) -> Tensor:
        begin = time.process_time()
        mel = draw(model, condition, at_time(t), solver=ddim(eta=1.0), seed=seed, samples=[number]).mel
        seconds[t] += time.process_time() - begin
        return mel

    auxiliary = measured(model, items, lambda condition, number: model.auxiliary(condition))
    full = measured(model, items, lambda condition, number: started(1.0, condition, number))
    short = measured(model, items, lambda condition, number: started(boundary.t, condition, number))
    return (
        auxiliary.distance,
        full.distance,
        short.distance,
        auxiliary.liveliness,
        full.liveliness,
        short.liveliness,
        float(boundary.step),
        seconds[boundary.t] / seconds[1.0],
    )
