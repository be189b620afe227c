"""Inverse folding by masked diffusion with ProteinMPNN's own decoder: many residues a step, at what cost in quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from degauss.bio.datasets import proteinmpnn_path, structure_path
from degauss.bio.decoding import decode, on_grid, one_by_one
from degauss.bio.inverse_folding import (
    PROCESS,
    InverseFolding,
    Redesign,
    inverse_folding,
    redesign,
    reveal_ranks,
    score,
)
from degauss.bio.proteinmpnn import ProteinMPNN, load_proteinmpnn
from degauss.bio.structures import read_structure
from degauss.core.claims import Claim, Result, Verdict
from degauss.core.jump import Tempered, first_hitting, sample_tokens, skipping

CLAIM = Claim(
    paper=(
        "Hoogeboom et al. 2022, Autoregressive Diffusion Models, section 3.2 (on drawing several tokens at a time); "
        "Dauparas et al. 2022, Robust deep learning-based protein sequence design using ProteinMPNN"
    ),
    statement=(
        "A decoder that was trained to reveal tokens one after another in random orders is the denoiser of absorbing "
        "diffusion, and can reveal many at a time at little loss, without training. (ProteinMPNN is such a decoder.)"
    ),
    expected=(
        "For 6MRR, 5L33 and 1PGA, 48 designs at temperature 0.1, with a step for every four residues against one "
        "residue a step, in the median over seeds: (a) a quarter of the evaluations, give or take a step; (b) recovery "
        "lower by at most 0.02; (c) -log p under the network, averaged over orders, higher by at most 0.05 nats a "
        "residue; (d) mean pairwise distance lower by at most 0.03; (e) at most half the CPU time of the same denoiser "
        "(6MRR); and (f) the published code's numbers: native -log p of 1.467 on 6MRR within 0.02, recovery one by one "
        "of 0.499 (6MRR) and 0.447 (5L33) within 0.04. Control: all residues in one step must cost more than 0.05 nats."
    ),
)

PROTEINS = ("6MRR", "5L33", "1pga")
DESIGNS, TIMED, TEMPERATURE = 48, 8, 0.1
SCORED, NATIVE = 2, 16  # orders
AT_ONCE = 16

Drawn = Callable[[], Tensor]


def run(seeds: Sequence[int]) -> Result:
    network = load_proteinmpnn(proteinmpnn_path())
    with torch.inference_mode():
        found = [one(network, seed) for seed in seeds]
    figures = {name: [values[name] for values in found] for name in found[0]}

    def loss(figure: str, steps: str) -> list[float]:
        """How much a figure is higher one by one, the median over seeds, for each protein."""
        pairs = [(figures[f"{figure}, {name}, one by one"], figures[f"{figure}, {name}, {steps}"]) for name in PROTEINS]
        return [median([a - b for a, b in zip(*pair, strict=True)]) for pair in pairs]

    share = [median(figures[f"steps a residue, {name}, a quarter"]) for name in PROTEINS]
    return Result(
        verdict(
            [
                all(abs(value - 0.25) <= 0.02 for value in share),
                all(value <= 0.02 for value in loss("recovery", "a quarter")),
                all(-value <= 0.05 for value in loss("-log p", "a quarter")),
                all(value <= 0.03 for value in loss("pairwise distance", "a quarter")),
                median(figures["CPU time of the denoiser, one by one / a quarter"]) >= 2,
                abs(median(figures["-log p, 6MRR, native"]) - 1.467) <= 0.02,
                abs(median(figures["recovery, 6MRR, one by one"]) - 0.499) <= 0.04,
                abs(median(figures["recovery, 5L33, one by one"]) - 0.447) <= 0.04,
            ],
            [all(-value > 0.05 for value in loss("-log p", "one step"))],
        ),
        figures,
        notes=(
            f"-log p is in nats a residue, averaged over {SCORED} orders ({NATIVE} for native sequences). Designs come "
            "from the decoder that computes each residue once, which draws what the denoiser draws: its time is given "
            "beside the denoiser's. Its one-by-one run is ProteinMPNN's own way of sampling, so the ratio of its two "
            "times is what parallel steps save a user on this machine; the number of steps in sequence is what they "
            "save on a GPU."
        ),
    )


def one(network: ProteinMPNN, seed: int) -> dict[str, float]:
    """All figures of one seed."""
    found: dict[str, float] = {}
    for name in PROTEINS:
        problem = redesign(read_structure(structure_path(name)))
        model = inverse_folding(network, problem, seed)
        native = score(model, problem.native()[None], NATIVE, seed).designed
        found[f"-log p, {name}, native"] = float(native)
        for label, steps in settings(problem.places).items():
            x = designs(model, steps, label, seed)
            letters = problem.letters(x)
            nats = torch.cat([score(model, part, SCORED, seed).designed for part in letters.split(AT_ONCE)])
            found[f"steps a residue, {name}, {label}"] = steps / problem.places
            found[f"recovery, {name}, {label}"] = float(problem.recovery(letters).mean())
            found[f"-log p, {name}, {label}"] = float(nats.mean())
            found[f"pairwise distance, {name}, {label}"] = distance(x)
        if name == PROTEINS[0]:
            found |= times(model, problem, seed)
    return found


def settings(places: int) -> dict[str, int]:
    """Steps by what they are called."""
    return {
        "one by one": places,
        "a half": -(-places // 2),
        "a quarter": -(-places // 4),
        "an eighth": -(-places // 8),
        "one step": 1,
    }


def designs(model: InverseFolding, steps: int, label: str, seed: int, count: int = DESIGNS) -> Tensor:
    """Designs, in batches that fit a small cache."""
    when = one_by_one if label == "one by one" else on_grid
    batches = (range(first, min(count, first + AT_ONCE)) for first in range(0, count, AT_ONCE))
    drawn = (decode(model, batch, steps, temperature=TEMPERATURE, when=when, seed=seed) for batch in batches)
    return torch.cat(list(drawn))


def distance(x: Tensor) -> float:
    """The mean share of places in which two designs differ."""
    differ = (x[:, None] != x).double().mean(-1)
    return float(differ.sum() / (len(x) * (len(x) - 1)))


def times(model: InverseFolding, problem: Redesign, seed: int) -> dict[str, float]:
    """CPU seconds a design, one by one and in a quarter of the steps: of the denoiser, and of the decoder."""
    places = problem.places
    quarter = settings(places)["a quarter"]
    shape = (TIMED, places)
    cond = {"ranks": reveal_ranks(seed, shape)}

    def asked(steps: int) -> Drawn:
        solver = first_hitting() if steps == places else skipping()
        tempered = Tempered(model, TEMPERATURE)
        return lambda: sample_tokens(tempered, PROCESS, shape, solver=solver, steps=steps, seed=seed, cond=cond)

    slow, fast = seconds(asked(places)), seconds(asked(quarter))
    one, many = (
        seconds(lambda label=label, steps=steps: designs(model, steps, label, seed, TIMED))
        for label, steps in (("one by one", places), ("a quarter", quarter))
    )
    return {
        "CPU time of the denoiser, one by one / a quarter": slow / fast,
        "CPU time of the decoder, one by one / a quarter": one / many,
        "CPU time, denoiser one by one / decoder in a quarter": slow / many,
        "CPU seconds a design, denoiser, one by one": slow / TIMED,
        "CPU seconds a design, denoiser, a quarter": fast / TIMED,
        "CPU seconds a design, decoder, one by one": one / TIMED,
        "CPU seconds a design, decoder, a quarter": many / TIMED,
    }


def seconds(draw: Drawn) -> float:
    start = time.process_time()
    draw()
    return time.process_time() - start


def verdict(parts: Sequence[bool], controls: Sequence[bool]) -> Verdict:
    """All parts true: holds; none: does not hold; else partly, as when a control did not fail as it must."""
    if not any(parts):
        return "does not hold"
    return "holds" if all(parts) and all(controls) else "holds partly"
