"""Faces on every side: what a prior without views does, and what annealing and views do against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from degauss.core.claims import Claim, Result, Verdict

from ._faces import Arm, Effort, distilled, faces
from ._scenes import GUIDANCE, gathered, note, shipped, truth, verdict

CLAIM = Claim(
    paper=(
        "Guo et al. 2023, StableDreamer, section 3.2 (annealing of the noise level); Shi et al. 2024, MVDream, and Liu "
        "et al. 2023, Zero-1-to-3 (priors that are told the view)"
    ),
    statement=(
        "A prior that is not told the view paints its object's front on many sides. A noise level that falls over the "
        "run cures some of it; a prior that is told the view cures it."
    ),
    expected=(
        "SDS of the words spot, chair and snowman, 200 steps of 2 views, guidance 3; the twin sees colours and is not "
        "told the view, the other prior is told it. The rate is the share of views from the side and the back whose "
        "nearest true picture is a front (chance 0.125), the mean over words, the median over seeds: (a) the twin's is "
        "lower by 0.05 or more with annealed times than with times from 0.02 to 0.98 throughout; (b) that of the prior "
        "with views, without annealing, is lower than the twin's by 0.1 or more; (c) with both it is at most 0.05. "
        "Controls: the twin without annealing must have a rate of 0.2 or more, and the true meshes one of 0. All: "
        "holds. Some: holds partly."
    ),
)

ARMS = {
    "twin": Arm("twin", "none", GUIDANCE),
    "twin, annealed": Arm("twin", "mvdream", GUIDANCE),
    "views": Arm("embedded", "none", GUIDANCE),
    "views, annealed": Arm("embedded", "mvdream", GUIDANCE),
}
EFFORT = Effort()


def run(seeds: Sequence[int], effort: Effort = EFFORT) -> Result:
    sources = {name: shipped(name) for name in ("embedded", "twin")}
    found: list[dict[str, float]] = []
    for seed in seeds:
        row: dict[str, float] = {}
        for name, arm in ARMS.items():
            row[f"Janus rate, {name}"], row[f"PSNR (dB), {name}"] = distilled(arm, sources[arm.prior], seed, effort)
        found.append(row)
    figures = gathered(found)
    figures["Janus rate, true meshes"] = [max(faces(truth(word), word) for word in effort.words)]
    return Result(
        judged(figures),
        figures,
        notes=(
            f"{note(sources['embedded'])} {note(sources['twin'])} Both have learned the same objects. Views judged: "
            "azimuths of 90 to 270 degrees in steps of 45, at elevations of 0, 15 and 30."
        ),
    )


def judged(figures: Mapping[str, Sequence[float]]) -> Verdict:
    """As the claim says."""
    rate = {name: median(figures[f"Janus rate, {name}"]) for name in (*ARMS, "true meshes")}
    return verdict(
        [
            rate["twin, annealed"] <= rate["twin"] - 0.05,
            rate["views"] <= rate["twin"] - 0.1,
            rate["views, annealed"] <= 0.05,
        ],
        [rate["twin"] >= 0.2, rate["true meshes"] == 0],
    )
