"""`degauss-audio enhance`: clean up a recording, or a folder of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tyro.conf import Positional

from degauss.audio.commands.acoustic_options import beside, check_sound
from degauss.audio.commands.enhancer_options import EnhancerSolver, enhancer_solver
from degauss.core.errors import InputError
from degauss.core.options import check_directory, device_of, progress

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.audio.enhancement import Enhancer, Sampling
    from degauss.audio.long_files import Found
    from degauss.audio.streaming import Chunking, Process

# A picture shows no more than this (s).
_SHOWN = 60.0


class Opened(NamedTuple):
    """A model on its device, how it is sampled, and the hash of its checkpoint."""

    model: Enhancer
    sampling: Sampling
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Enhance:
    """Remove noise, or reverberation, whichever the model was trained for.

    The result has the rate, channels and length of the recording, and is never clipped; recordings of any length are
    cleaned in chunks, in little memory. Beside the sound go a picture of it (.png) and what was done (.json).
    """

    noisy: Positional[Path]
    """A recording, or a folder: all sounds in it and below are cleaned."""
    out: Path = Path("enhanced.wav")
    """The sound to write; for a folder, a folder. What is there already is not made again if it was made of the same
    recording with the same model and options."""
    checkpoint: Path | None = None
    """A model of 'train-enhancer'; the one that ships with the package, a predictive one, unless given. The options
    from here to --fall-back are of diffusion models: a predictive one has one answer."""
    solver: EnhancerSolver = "dpmpp"
    """How the reverse process is solved; pc is the published predictor-corrector (two evaluations a step)."""
    steps: int = 8
    """Steps of the solver; the published number for pc is 30."""
    start: float = 1.0
    """Time to start from: 1 as published; less stays nearer to the recording, or to the predictive estimate."""
    draws: int = 1
    """Samples whose mean is taken."""
    fall_back: float | None = None
    """Use the predictive estimate where draws differ by more than about this (say 0.05; StoRM, two draws or more)."""
    seed: int = 0
    """Everything random follows from it."""
    picture: bool = True
    """Whether to draw the picture."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        if self.noisy.is_dir():
            self._folder()
            return
        from degauss.audio.long_files import scan

        check_sound(self.out)
        if self.out.resolve() == self.noisy.resolve():
            raise InputError(f"{self.out}: is the recording itself; expected another name to write to.")
        found = scan(self.noisy)
        opened = self._opened()
        with progress("evaluations") as report:
            about = self._clean(self.noisy, found, self.out, opened, report)
        print(f"wrote {self.out}: {found.duration:.2f} s at {about['real_time_factor']:.2f} of real time")

    def _folder(self) -> None:
        from degauss.audio.enhancement_training import sound_files
        from degauss.audio.long_files import scan

        check_directory(self.out)
        paths = sound_files(self.noisy)
        if self.out.resolve() == self.noisy.resolve():
            raise InputError(f"{self.out}: is the folder of the recordings; expected another one to write to.")
        # What an earlier run wrote into a folder inside is no recording.
        paths = [path for path in paths if not path.resolve().is_relative_to(self.out.resolve())]
        if not paths:
            raise InputError(f"{self.noisy}: holds no sound; expected recordings (.wav, .flac, .ogg, .mp3).")
        targets = {path: (self.out / path.relative_to(self.noisy)).with_suffix(_suffix(path)) for path in paths}
        twice = next((path for path in paths if list(targets.values()).count(targets[path]) > 1), None)
        if twice is not None:
            raise InputError(f"{twice}: another recording has this name with another suffix; expected one of each.")
        opened, made, refused = self._opened(), 0, list[str]()
        for path, target in targets.items():
            if self._done(path, target, opened):
                continue
            try:
                found = scan(path)
            except InputError as error:
                refused.append(str(error))
                continue
            with progress(path.name) as report:
                self._clean(path, found, target, opened, report)
            made += 1
        there = len(paths) - made - len(refused)
        print(f"wrote {made} of {len(paths)} sounds to {self.out}" + (f"; {there} were there" if there else ""))
        if refused:
            raise InputError(f"{len(refused)} of {len(paths)} recordings were left out; the first: {refused[0]}")

    def _opened(self) -> Opened:
        from degauss.audio.enhancement import SHIPPED, Enhancer, Sampling
        from degauss.core.files import fingerprint

        device = device_of(self.device)
        checkpoint = self.checkpoint or SHIPPED
        model = Enhancer.load(checkpoint)
        model.network.to(device)
        sampling = Sampling(enhancer_solver(self.solver), self.steps, self.start, self.draws, self.seed)
        sampling.times(model.config.t_eps)
        if self.fall_back is not None and (model.config.method != "storm" or self.draws < 2):
            raise InputError("fall_back needs a StoRM model and at least 2 draws: what differs is their spread.")
        if self.draws > 1 and model.config.score is None:
            raise InputError(f"{checkpoint}: is a predictive model, which has one answer; expected 1 draw.")
        return Opened(model, sampling, fingerprint(checkpoint))

    def _settings(self, path: Path, opened: Opened) -> dict[str, Any]:
        """What a result follows from, as its JSON says it."""
        from degauss.core.files import fingerprint

        config = opened.model.config
        sampled = {
            "solver": self.solver,
            "steps": self.steps,
            "start": self.start,
            "draws": self.draws,
            "fall_back": self.fall_back,
            "seed": self.seed,
        }
        return {
            "recording_sha256": fingerprint(path),
            "checkpoint_sha256": opened.sha256,
            "method": config.method,
            "model_rate": config.rate,
            **({} if config.method == "predictive" else sampled),
        }

    def _done(self, path: Path, target: Path, opened: Opened) -> bool:
        from degauss.core.files import read_json

        record = beside(target, ".json")
        if not (target.is_file() and record.is_file()):
            return False
        return read_json(record).get("settings") == self._settings(path, opened)

    def _clean(
        self, path: Path, found: Found, target: Path, opened: Opened, report: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """Clean one recording, and write it with its picture and, last, its JSON."""
        import time

        from degauss.audio.enhancement import evaluations
        from degauss.audio.long_files import cleaned, write
        from degauss.audio.streaming import Chunking
        from degauss.core.cli import provenance
        from degauss.core.files import atomic_path, write_json

        model, sampling, _ = opened
        rate = model.config.rate
        if found.rate != rate:
            print(f"{path}: is at {found.rate} Hz; resampled to the model's {rate} Hz and back.", file=sys.stderr)
        chunking = Chunking.at(rate)
        each = evaluations(model.config, sampling)
        total = each * found.channels * chunking.count(round(found.length * rate / found.rate))
        asked = 0

        def tell() -> None:
            nonlocal asked
            asked += 1
            report(asked, total)

        start = time.perf_counter()
        make = self._process(model, sampling, tell)
        volume = write(target, cleaned(path, found, lambda blocks: _channels(make, chunking, blocks), rate), found)
        seconds = time.perf_counter() - start
        if volume < 1:
            print(f"{target}: the peak passed full scale; written at {volume:.3f} of its volume.", file=sys.stderr)
        if self.picture:
            _draw(target, path.name)
        about = {
            "settings": self._settings(path, opened),
            "recording": path.name,
            "rate": found.rate,
            "channels": found.channels,
            "seconds": found.duration,
            "volume": volume,
            "evaluations": asked,
            "evaluations_a_chunk": each,
            "chunk": {"step": chunking.step, "fade": chunking.fade, "context": chunking.context},
            "real_time_factor": seconds / found.duration,
            **provenance(),
        }
        with atomic_path(beside(target, ".json")) as part:
            write_json(part, about)
        return about

    def _process(self, model: Enhancer, sampling: Sampling, tell: Callable[[], None]) -> Process:
        """What becomes of a chunk."""
        from degauss.audio.enhancement import estimate, sound_of
        from degauss.audio.uncertainty import fall_back

        def process(chunk: Tensor, number: int) -> Tensor:
            found = estimate(model, chunk, sampling, number, tell)
            # Of silence there is nothing to be unsure of.
            unsure = self.fall_back is not None and found.predictive is not None
            mean = fall_back(found, self.fall_back or 0.0) if unsure else found.draws.mean(0)
            return sound_of(model, mean[None], found.peak, len(chunk))[0]

        return process


def _channels(process: Process, chunking: Chunking, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each channel through chunks of its own, with the same randomness: what is alike in two stays alike."""
    import torch

    from degauss.audio.streaming import Stream

    machine = Stream(process, chunking)
    states: list[Any] = []
    for block in blocks:
        if not states:
            states = [machine.start() for _ in block]
        settled: list[Tensor] = []
        for channel, samples in enumerate(block):
            states[channel], done = machine.push(states[channel], samples)
            settled.append(done)
        yield torch.stack(settled)
    if states:
        yield torch.stack([machine.finish(state) for state in states])


def _suffix(path: Path) -> str:
    """Of the sound that is written for a recording: its own where nothing is lost by it."""
    return path.suffix if path.suffix.lower() in (".wav", ".flac") else ".wav"


def _draw(target: Path, title: str) -> None:
    """The picture of the first minute of a sound, with its pitch."""
    import soundfile as sf
    import torch

    from degauss.audio.pitch import f0
    from degauss.audio.plots import sound_picture
    from degauss.audio.spectra import MelConfig
    from degauss.audio.waves import Wave, mono

    with sf.SoundFile(target) as file:
        rate = int(file.samplerate)
        samples = torch.from_numpy(file.read(round(_SHOWN * rate), dtype="float32", always_2d=True)).T
        more = file.frames > len(samples[0])
    hop = max(1, round(0.01 * rate))
    mel = MelConfig(rate, 4 * hop, hop, 80, 0.0, rate / 2)
    wave, shown = Wave(samples, rate), f"{title}, the first minute" if more else title
    sound_picture(beside(target, ".png"), wave, mel, f0(mono(wave), rate, hop), shown)
