"""From a word to files: one run with all that is kept beside it, for the commands `generate` and `batch`.

For ``spot.glb`` there is a folder ``spot`` with

    config.toml      the options as given, which `--config` reads again
    resolved.json    every number that the run used
    metrics.jsonl    losses and costs while it went on
    snapshots/       pictures from around while it went on, with what the prior wanted
    checkpoint/      the scene and all else that a run needs to go on
    turntable.mp4    a turn around what was written
    sheet.png        the snapshots, and the end from around: colour, normals, depth
    metrics.json     what it cost, how good it is where the truth is known, and what the Janus meter saw

metrics.json is written last: a folder that has it is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from degauss.core.cli import provenance
from degauss.core.errors import InputError
from degauss.core.files import atomic_path, read_json, write_json
from degauss.core.options import Report
from degauss.core.train.journal import forget
from degauss.threed.cameras import Cameras
from degauss.threed.exporting import MeshConfig, check_export, export
from degauss.threed.janus import LABELS, JanusMeter, Judge, NearestRender, PriorJudge, Remedies, azimuths
from degauss.threed.meshes import Mesh
from degauss.threed.plots import views_sheet, write_picture
from degauss.threed.prior_sources import Source
from degauss.threed.quality import compare_surfaces, compare_views, held_out_views
from degauss.threed.rendering import Representation
from degauss.threed.run import CHECKPOINT, Observer, Run, RunConfig, go_on, peak_memory
from degauss.threed.turntable import turntable, write_film
from degauss.threed.watching import (
    METRICS,
    SNAPSHOTS,
    Bar,
    JanusWatch,
    Journal,
    Snapshots,
    around_views,
    look,
)

if TYPE_CHECKING:
    from degauss.threed.amortised import AmortisedConfig

DONE = "metrics.json"
_SHOWN = 6
_LOOKS = 4
"""How often the Janus meter looks, in the second half of a run."""


@dataclass(frozen=True)
class Job:
    """What is to be made: a run, how its scene becomes a file, and where.

    ``out``: the GLB, OBJ or PLY. ``frames``: of the turntable. ``snapshots``: pictures during the run.
    """

    config: RunConfig
    out: Path
    mesh: MeshConfig = field(default_factory=MeshConfig)
    frames: int = 48
    snapshots: int = 6

    @property
    def folder(self) -> Path:
        """The run's own."""
        return self.out.with_suffix("")


def prepare(job: Job, source: Source, device: torch.device | str) -> Run:
    """The run of a job, going on from what its folder holds; writes nothing.

    Raises `InputError` for what cannot be: an unknown prompt, a format that does not fit the scene, a folder that holds
    something else or another run.
    """
    run = Run(job.config, source.prior, device)
    check_export(job.out, run.scene)
    folder = job.folder
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected the name of a folder for the run of {job.out.name}.")
    if not run.load(folder) and folder.is_dir():
        strange = [file.name for file in folder.iterdir() if file.name not in (METRICS, SNAPSHOTS, *_BEFORE)]
        if strange:
            raise InputError(f"{folder} holds other things than a run ({strange[0]}): name another --out.")
    return run


_BEFORE = ("config.toml", "resolved.json")


def generate(
    job: Job,
    run: Run,
    source: Source,
    report: Report,
    warn: Callable[[str], None],
    save_every: float = 120.0,
    watchers: Sequence[Observer] = (),
) -> dict[str, Any]:
    """Take the steps that are left, write everything, and return what metrics.json holds.

    ``watchers``: who else looks on, after the run's own observers.
    """
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "resolved.json") as part:
        write_json(part, json.loads(json.dumps(asdict(job.config))))
    meter = meter_of(job.config, source, warn)
    snapshots = Snapshots(folder / SNAPSHOTS, max(1, job.config.steps // job.snapshots))
    journal = Journal(folder / METRICS)
    forget(journal.path, run.step)
    observers: list[Observer] = [Bar(report), journal, snapshots, *watchers]
    if meter is not None:
        half = job.config.steps // 2
        observers.append(JanusWatch(meter, max(1, half // _LOOKS), half))
    go_on(run, folder, observers, save_every)
    return finish(job, run, source, snapshots, meter)


def finish(job: Job, run: Run, source: Source, snapshots: Snapshots, meter: JanusMeter | None) -> dict[str, Any]:
    """Write what is made of a run at its end."""
    folder, scene = job.folder, run.scene
    made = provenance_of(job.config, source)
    mesh = export(job.out, scene, job.mesh, made)
    shown: Representation = scene if mesh is None else mesh
    size = 128
    write_film(folder / "turntable.mp4", turntable(shown, job.frames, size=size, device=run.device))
    views = around_views(2 * snapshots.size, run.device, _SHOWN)
    end = views_sheet(look(scene, views))
    before = snapshots.sheet()
    # Each is one picture already: side by side they would have to be of one size.
    write_picture(folder / "sheet.png", end)
    if before is not None:
        write_picture(folder / "process.png", before)
    figures: dict[str, Any] = {
        "prompt": job.config.prompt,
        "method": job.config.called,
        "representation": job.config.scene.kind,
        "steps": run.step,
        "evaluations": run.evaluations,
        "seconds": {stage: round(value, 3) for stage, value in run.seconds.items()},
        "peak_memory_bytes": peak_memory(run.device),
        "device": str(run.device),
        "faces": None if mesh is None else len(mesh.faces),
        "janus": None if meter is None else {str(step): rate for step, rate in meter.rates.items()},
        "quality": quality_of(scene, mesh, source),
        **source.facts(),
        "versions": provenance(),
    }
    with atomic_path(folder / DONE) as part:
        write_json(part, figures)
    return figures


def quality_of(scene: Representation, mesh: Mesh | None, source: Source) -> dict[str, float] | None:
    """Scores against the truth, where it is known."""
    if source.truth is None:
        return None
    truth = source.truth
    device = truth.vertices.device
    scores = compare_views(scene, truth, held_out_views(64, device=device))._asdict()
    if mesh is not None:
        scores |= compare_surfaces(mesh, truth)._asdict()
    return rounded(scores)


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """As metrics.json has them."""
    return {name: round(value, 5) for name, value in scores.items()}


def provenance_of(config: RunConfig, source: Source) -> dict[str, Any]:
    """What a GLB says of its making."""
    return {"prompt": config.prompt, **made_by(config, source)}


def made_by(config: RunConfig | AmortisedConfig, source: Source) -> dict[str, Any]:
    """By what configuration, prior and versions something was made."""
    run = json.loads(json.dumps(asdict(config)))
    return {"seed": config.seed, **source.facts(), "run": run, "versions": provenance()}


def meter_of(config: RunConfig, source: Source, warn: Callable[[str], None]) -> JanusMeter | None:
    """The Janus meter for a prior: by the true renders, else by the prior's own error; None if it hears no views."""
    judge = judge_of(config.prompt, source)
    if judge is None:
        return None
    method = config.method
    annealed = method.annealing != "none" or config.shape is not None
    return JanusMeter(judge, Remedies(source.told, annealed, method.perp_neg), warn)


def judge_of(prompt: str, source: Source) -> Judge | None:
    """Who can say where renders of a prompt are seen from."""
    prior = source.prior
    if source.truth is not None:
        cameras = Cameras.orbit(azimuths(LABELS), 15.0, size=2 * prior.size).to(source.truth.vertices.device)
        seen = look(source.truth, cameras)
        return NearestRender(prior.encode(seen.rgb, seen.normal), azimuths(LABELS))
    if not source.told:
        return None
    return PriorJudge(lambda views: prior.denoiser(prompt, 1.0, views), prior.schedule)


def is_done(out: Path, config: RunConfig) -> bool:
    """Whether this very run has been finished: its files are there, and it was made with this configuration."""
    folder = out.with_suffix("")
    if not out.is_file() or not (folder / DONE).is_file() or not (folder / CHECKPOINT).is_dir():
        return False
    return read_json(folder / "resolved.json") == json.loads(json.dumps(asdict(config)))
