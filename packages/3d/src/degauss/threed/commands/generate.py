"""`degauss-3d generate`: from a word to a textured mesh."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from degauss.core.options import check_file, device_of, progress
from degauss.threed.commands.run_options import MeshOptions, MethodName, RunOptions, ViewOptions, warn


@dataclass(frozen=True, kw_only=True)
class Generate(RunOptions, MeshOptions, ViewOptions):
    """Distil a word into a textured mesh (.glb, .obj), or into splats (.ply, from Gaussians).

    The prior that ships is no text-to-image model: its words are the names of a few objects, and a word that it does
    not know is answered with those that it does.

    For spot.glb a folder spot keeps the run: its options and seed, figures (metrics.json, metrics.jsonl), a turntable,
    pictures of how it went, and the scene, which 'render', 'export' and 'view' read. Stop it and run it again: it goes
    on where it stopped, and ends at the same bits.
    """

    prompt: Positional[str]
    """A word that the prior knows."""
    method: MethodName = "sds"
    """How the prior's opinion becomes a gradient; vsd adapts a network, which an oracle does not have;
    stable-dreamer is sds in two stages, best on Gaussians."""
    out: Path = Path("object.glb")
    """The file to write; .glb, .obj or .ply."""
    frames: int = 48
    """Of the turntable."""
    snapshots: int = 6
    """Pictures during the run."""
    save_every: float = 120.0
    """Seconds between checkpoints."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.threed.generation import Job, generate, prepare

        check_file(self.out, (".glb", ".obj", ".ply"))
        device = device_of(self.device)
        source = self.source()
        source.prior.check(self.prompt)
        source = source.about(self.prompt, device)
        config = self.run_config(self.prompt, self.method, source)
        job = Job(config, self.out, self.mesh_config(), self.frames, self.snapshots)
        run = prepare(job, source, device)
        with ExitStack() as stack:
            # Opened before anything is written: it may be refused.
            watchers = self.watchers(stack, device)
            write_resolved_config(job.folder / "config.toml", self, prior_sha256=source.sha256)
            report = stack.enter_context(progress("steps"))
            figures = generate(job, run, source, report, warn, self.save_every, watchers)
        said = figures["quality"]
        judged = "" if said is None else f", PSNR {said['psnr']:.1f} dB and IoU {said['iou']:.2f} on views held out"
        print(
            f"wrote {self.out} and {job.folder}: {run.step} steps, {run.evaluations} evaluations, "
            f"{sum(run.seconds.values()):.0f} s{judged}"
        )
