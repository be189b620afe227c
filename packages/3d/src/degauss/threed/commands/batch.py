"""`degauss-3d batch`: a mesh of each line of a file."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_directory, device_of, progress
from degauss.threed.commands.run_options import MeshOptions, MethodName, RunOptions, ViewOptions, warn


@dataclass(frozen=True, kw_only=True)
class Batch(RunOptions, MeshOptions, ViewOptions):
    """Distil each prompt of a file, one a line, as 'generate' does; # begins a comment.

    What is done is skipped, and what was stopped goes on, so that the same command can be given again at any time. All
    prompts are checked before the first is begun.
    """

    prompts: Positional[Path]
    """A text file of prompts."""
    method: MethodName = "sds"
    """How the prior's opinion becomes a gradient; vsd adapts a network, which an oracle does not have;
    stable-dreamer is sds in two stages, best on Gaussians."""
    out: Path = Path("batch")
    """The folder to write to: for each prompt a file and the folder of its run."""
    format: Literal["glb", "obj", "ply"] = "glb"
    """Of the files; ply are splats."""
    frames: int = 48
    """Of the turntables."""
    snapshots: int = 6
    """Pictures during each run."""
    save_every: float = 120.0
    """Seconds between checkpoints."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.threed.generation import Job, generate, is_done, prepare

        check_directory(self.out)
        prompts = read_prompts(self.prompts)
        device, source = device_of(self.device), self.source()
        for prompt in prompts:
            source.prior.check(prompt)
        jobs = [
            Job(
                self.run_config(prompt, self.method, source),
                self.out / f"{name}.{self.format}",
                self.mesh_config(),
                self.frames,
                self.snapshots,
            )
            for prompt, name in prompts.items()
        ]
        with ExitStack() as stack:
            watchers = self.watchers(stack, device)
            for number, job in enumerate(jobs, 1):
                said = f"{number} of {len(jobs)}: {job.config.prompt}"
                if is_done(job.out, job.config):
                    print(f"{said}: is done")
                    continue
                told = source.about(job.config.prompt, device)
                run = prepare(job, told, device)
                write_resolved_config(job.folder / "config.toml", self, prior_sha256=source.sha256)
                with progress(said) as report:
                    generate(job, run, told, report, warn, self.save_every, watchers)
                print(f"{said}: wrote {job.out}")


def read_prompts(path: Path) -> dict[str, str]:
    """The prompts of a file, each once, and the name of its files.

    Raises `InputError` if the file cannot be read, has no prompt, or two prompts would have one name.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the prompts cannot be read ({error}).") from None
    prompts = [text for line in lines if (text := line.split("#")[0].strip())]
    if not prompts:
        raise InputError(f"{path} has no prompt: expected one a line.")
    found: dict[str, str] = {}
    for prompt in prompts:
        name = "_".join("".join(c if c.isalnum() or c in "-." else " " for c in prompt).split()) or "prompt"
        if name in found.values() and prompt not in found:
            raise InputError(f"{path}: the prompt {prompt!r} and another would both be written to {name!r}.")
        found[prompt] = name
    return found
