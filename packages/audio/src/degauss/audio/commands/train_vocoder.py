"""`degauss-audio train-vocoder`: a neural vocoder of one's own recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import progress


@dataclass(frozen=True, kw_only=True)
class TrainVocoder:
    """Train a neural vocoder on every recording in a folder. Stop it and run it again: it goes on where it stopped.

    Half an hour of clean voices and an hour of one CPU core make a good one. It is written to OUT/model, for
    --vocoder of the other verbs; an acoustic model needs one of its own mel spectra.
    """

    folder: Positional[Path]
    """Folder with sound files (wav, flac, ogg, mp3) of any rate; they are resampled and mixed to one channel."""
    out: Path = Path("runs/vocoder")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    rate: int = 16000
    """Samples a second of what it makes."""
    n_fft: int = 1024
    """Window of the mel spectra, in samples."""
    hop: int = 256
    """Samples from one mel frame to the next."""
    n_mels: int = 80
    """Bands of the mel spectra."""
    f_min: float = 0.0
    """Lowest frequency of the bands, in Hz."""
    f_max: float | None = None
    """Highest frequency of the bands, in Hz; half the rate unless given."""
    width: int = 160
    """Channels of the network."""
    blocks: int = 6
    """Blocks of the network."""
    steps: int = 12000
    """Training steps."""
    batch: int = 8
    """Crops a step."""
    frames: int = 64
    """Mel frames of a crop; shorter recordings are padded with silence."""
    lr: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.audio.source_filter import SourceFilterConfig
        from degauss.audio.spectra import MelConfig
        from degauss.audio.vocoder_training import fit, load_recordings, recipe, sounds
        from degauss.core.cli import write_resolved_config

        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: is a file; expected a directory for the run, or a name to make one.")
        top = self.rate / 2 if self.f_max is None else self.f_max
        try:
            mel = MelConfig(self.rate, self.n_fft, self.hop, self.n_mels, self.f_min, top)
        except ValueError as error:
            raise InputError(f"the mel spectra cannot be made: {error}.") from None
        config = SourceFilterConfig(
            mel, width=self.width, blocks=self.blocks, window=2 * self.hop, filter_hop=self.hop // 2
        )
        settings = recipe(
            self.out,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            device=self.device,
            tracker="tensorboard",
        )
        paths = sounds(self.folder)
        with progress("reading recordings") as report:
            recordings = load_recordings(paths, mel, self.frames, report)
        write_resolved_config(self.out / "train.toml", self)
        fit(config, recordings, settings, self.frames)
        minutes = sum(len(one.wave) for one in recordings) / self.rate / 60
        print(f"wrote {self.out / 'model'} after {self.steps} steps on {minutes:.1f} minutes of sound")
