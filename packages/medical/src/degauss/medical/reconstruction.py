r"""A reconstruction from its scan to its files, in a way that may be stopped, and goes on bit for bit.

One draw of the posterior is made after the other, each a function of the seed and its number. What is finished lies
beside the output, and so does the state of the draw that is being made (`degauss.core.pausing`); the same run, started
again, goes on from there. At the end all files are written, each whole or not at all, and last the metrics, as the sign
that all is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.core.checkpoint import read_tensors, write_tensors
from degauss.core.errors import InputError, Stopped
from degauss.core.files import atomic_path, read_json, remove, remove_partial, write_json
from degauss.core.inverse import Calibration, Facts, Parts, Summary, decompose, measured_contrast, null_std, summarise
from degauss.core.kernel import Event
from degauss.core.noise import Noise
from degauss.core.options import Report
from degauss.core.pausing import simulate_pausing
from degauss.medical.methods import settings
from degauss.medical.metrics import compare, data_residual
from degauss.medical.mri import complex_from
from degauss.medical.problem import Method, Problem, checked
from degauss.medical.scans import Scan
from degauss.medical.volumes import Volume, from_prior_units

_WINDOW = (3, 3, 3)
"""Voxels over which provenance is averaged."""
_TRUST = 0.1
"""The deviation of the prior that a noisy measurement is weighed against for provenance, in prior units."""


# --- draws --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journal:
    """The folder beside an output where a run keeps what it has.

    ``plan``: all that the draws depend on. What another plan left is not used.
    """

    out: Path
    plan: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.partial")

    def begin(self) -> None:
        """Make the folder, empty unless the same run left it."""
        plan = json.loads(json.dumps(self.plan))
        try:
            same = read_json(self.folder / "plan.json") == plan
        except InputError:
            same = False
        if not same:
            remove(self.folder)
            self.folder.mkdir(parents=True)
            with atomic_path(self.folder / "plan.json") as part:
                write_json(part, plan)
        remove_partial(self.folder)

    def draw(self, sample: int) -> Path:
        """The file of a draw that is finished."""
        return self.folder / f"draw-{sample}.safetensors"

    def state(self, sample: int) -> Path:
        """The checkpoint of one that is not."""
        return self.folder / f"state-{sample}"

    def end(self) -> None:
        """Called when the output is written."""
        remove(self.folder)


class Drawn(NamedTuple):
    """Draws ``[k, *event]`` in prior units, on the CPU; how many slices the network was asked about for them now, and
    the seconds that this took (less than for all, where a run went on).
    """

    draws: Tensor
    evaluations: int
    seconds: float


def draw_all(
    problem: Problem,
    method: Method,
    journal: Journal,
    *,
    samples: int,
    seed: int,
    report: Report,
    every: float = 60.0,
) -> Drawn:
    """Draws 0 to ``samples`` - 1, going on from what the journal has, which is left for the caller to end.

    ``report`` is told (evaluations a slice that are done, in all); of methods without a prior, steps. ``every``:
    seconds between checkpoints within a draw. Raises `Stopped` at ctrl-C, when all is saved.
    """
    method.check(problem)
    journal.begin()
    course = method.course(problem)
    steps = len(course.grid) - 1
    each = method.evaluations or steps
    taken, begun = 0, time.monotonic()
    for sample in range(samples):
        report(sample * each, samples * each)
        if journal.draw(sample).exists():
            continue
        noise = Noise(seed, (sample,))

        def watch(event: Event, sample: int = sample) -> None:
            nonlocal taken
            taken += 1
            report(sample * each + (event.i + 1) * each // steps, samples * each)

        folder = journal.state(sample)
        try:
            with torch.no_grad():
                x = simulate_pausing(
                    course.kernel, course.start(noise), course.grid, noise, folder=folder, every=every, observe=(watch,)
                )
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped after {sample} of {samples} draws and a part of the next; run it again to go on from there."
            ) from None
        with atomic_path(journal.draw(sample)) as part:
            write_tensors(part, {"x": checked(method, x)[0]})
    report(samples * each, samples * each)
    seconds = time.monotonic() - begun
    draws = torch.stack([read_tensors(journal.draw(sample))["x"] for sample in range(samples)])
    asked = taken * method.evaluations // steps * problem.event[0] * problem.parts
    return Drawn(draws, asked, seconds)


# --- what a run says ----------------------------------------------------------------------------------------


def describe(scan: Scan, method: Method, prior: str | None) -> Facts:
    """What intervals are calibrated for: the method and its settings, the prior's hash, geometry, voxels and noise."""
    dz, dy, dx = scan.spacing
    facts: dict[str, str | int | float] = {"method": method.name}
    facts |= {name: value for name, value in settings(method).items() if value is not None}
    if prior is not None:
        facts["prior"] = prior
    facts |= {"modality": scan.modality, "rows": scan.shape[-2], "columns": scan.shape[-1]}
    facts["spacing"] = f"{dz:.3g} x {dy:.3g} x {dx:.3g} mm"
    facts |= scan.geometry.facts
    if scan.photons is not None:
        facts["photons"] = scan.photons
    else:
        facts["sigma"] = f"{scan.sigma / scan.full:.2g} in units of full"
    return facts


def record_path(prior: Path, describes: Facts, draws: int) -> Path:
    """Where the intervals' record for such draws lies: beside the prior's folder, a file for each combination."""
    import hashlib

    key = hashlib.sha256(json.dumps({**describes, "draws": draws}, sort_keys=True).encode()).hexdigest()[:12]
    return prior.parent / f"{prior.name}.intervals-{describes['method']}-{key}.json"


def find_record(prior: Path, describes: Facts, draws: int) -> Calibration | None:
    """The record that fits, if 'calibrate' made one."""
    path = record_path(prior, describes, draws)
    return Calibration.load(path) if path.is_file() else None


# --- results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Result:
    """What a run found, as volumes in the scan's own unit; None for what it cannot say.

    ``image``: the mean of the draws. ``std``, ``low``, ``high``: of several. ``provenance``: 1 where the measurement
    decided, 0 where the prior did. ``unseen_std``: of several, the
    standard deviation of the part that the measurement does not see: where it is large, a structure may be in one draw
    and not in another, and the measurement cannot tell. ``residual``: |y - A x| / |y|. ``full``: what x = 1 stands for.
    """

    image: Volume
    provenance: Volume
    residual: float
    full: float
    std: Volume | None = None
    unseen_std: Volume | None = None
    low: Volume | None = None
    high: Volume | None = None
    truth: Volume | None = None
    scores: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def maps(self) -> dict[str, Volume]:
        """The volumes that go beside the image, by the word in their file's name."""
        named = {
            "std": self.std,
            "unseen_std": self.unseen_std,
            "low": self.low,
            "high": self.high,
            "provenance": self.provenance,
        }
        return {name: volume for name, volume in named.items() if volume is not None}


def result_of(scan: Scan, problem: Problem, draws: Tensor, record: Calibration | None, describes: Facts) -> Result:
    """Put draws ``[k, *event]`` into volumes and score them. ``record``: calibrated intervals of such draws."""
    mean = draws.mean(0, keepdim=True).to(problem.measurement.y.device)
    summary = summarise(scan.magnitude(draws)) if len(draws) > 1 else None
    centre = scan.magnitude(mean)[0].cpu() if summary is None else summary.mean
    image = _volume(scan, centre)
    residual = data_residual(problem.measurement, mean)
    low, high = (None, None) if record is None or summary is None else _interval(scan, summary, record, describes)
    truth = None if scan.truth is None else _volume(scan, scan.magnitude(scan.truth))
    scores = {} if truth is None else compare(image.data, truth.data, scan.unit, residual=residual).card()
    return Result(
        image,
        _provenance(scan, problem, mean),
        residual,
        scan.full,
        None if summary is None else scan.deviations(summary.std),
        None if summary is None else scan.deviations(_unseen(problem, draws)),
        low,
        high,
        truth,
        scores,
    )


def _volume(scan: Scan, magnitude: Tensor) -> Volume:
    """A volume of real values in prior units, also of a scan whose x is complex."""
    data = from_prior_units(magnitude, scan.full, scan.unit).detach().float().cpu().contiguous()
    return Volume(data, scan.spacing, scan.unit, scan.place)


def _interval(scan: Scan, summary: Summary, record: Calibration, describes: Facts) -> tuple[Volume, Volume]:
    found = record.interval(summary, describes)
    return _volume(scan, found.low), _volume(scan, found.high)


def _unseen(problem: Problem, draws: Tensor) -> Tensor:
    """The deviation of what the measurement does not see, ``[slices, rows, columns]``; of both parts together."""
    found = null_std(problem.measurement.operator, draws.to(problem.measurement.y.device), rho=_prior_weight(problem))
    return torch.linalg.vector_norm(found, dim=-3) if problem.is_complex else found


def _prior_weight(problem: Problem) -> float:
    return (problem.measurement.sigma_y / _TRUST) ** 2


def _provenance(scan: Scan, problem: Problem, mean: Tensor) -> Volume:
    parts = decompose(problem.measurement.operator, mean, rho=_prior_weight(problem))
    if problem.is_complex:
        parts = Parts(complex_from(parts.measured), complex_from(parts.prior), parts.residual)
    share = measured_contrast(parts, _WINDOW)[0].float().cpu()
    return Volume(share.contiguous(), scan.spacing, "arbitrary", scan.place)


# --- files --------------------------------------------------------------------------------------------------


def beside(out: Path, name: str) -> Path:
    """A file of the same run: ``recon.nii.gz`` -> ``recon_std.nii.gz``, whatever the suffix of ``out`` is."""
    from degauss.medical.files import suffix

    stem = out.name[: len(out.name) - len(suffix(out))]
    return out.with_name(f"{stem}_{name}")


def write_result(out: Path, result: Result, about: Mapping[str, Any], title: str) -> list[Path]:
    """Write the image, its maps, the montage and last the metrics; the paths that were written."""
    from degauss.medical.files import write_volume

    write_volume(out, result.image, note=title)
    written = [out]
    for name, volume in result.maps.items():
        path = beside(out, f"{name}.nii.gz")
        write_volume(path, volume)
        written.append(path)
    picture, metrics = beside(out, "montage.png"), beside(out, "metrics.json")
    draw_montage(picture, result, title)
    with atomic_path(metrics) as part:
        write_json(part, {**about, "residual": result.residual, "scores": dict(result.scores)})
    return [*written, picture, metrics]


def draw_montage(path: Path, result: Result, title: str) -> None:
    """The image in three planes, and beside it truth, error, deviation and provenance where they are known."""
    from degauss.medical.metrics import body
    from degauss.medical.plots import SOFT_TISSUE, Panel, deviation, error, grey, middle, montage, share

    image, truth = result.image, result.truth
    reference = image if truth is None else truth
    unit = image.unit
    window = SOFT_TISSUE if unit == "HU" else (0.0, result.full)
    panels: list[Panel] = [grey("reconstruction", image.data, window, unit)]
    if truth is not None:
        panels = [grey("truth", truth.data, window, unit), *panels]
        panels.append(error("error", image.data, truth.data, window, unit))
    if result.std is not None:
        panels.append(deviation("std of the draws", result.std.data, unit))
    panels.append(share("decided by the data", result.provenance.data))
    try:
        at = middle(body(reference.data, unit))
    except InputError:  # a volume without a body still has a picture
        slices, rows, columns = (size // 2 for size in reference.data.shape)
        at = slices, rows, columns
    montage(path, panels, image.spacing, at, title)
