"""`degauss-audio train`: an acoustic model, for `speak` and `sing`, of a prepared folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, progress

if TYPE_CHECKING:
    from degauss.audio.acoustic import AcousticConfig
    from degauss.audio.acoustic_data import Corpus
    from degauss.audio.spectra import MelConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a voice, or several, on a folder that 'prepare' wrote. Stop it and run it again: it goes on.

    The folder holds transcriptions.csv and wavs/. With notes in the table the model sings, without it speaks. First the
    front end and a blurred decoder are trained (OUT/auxiliary), then the diffusion on top (OUT/diffusion); the model is
    written to OUT/model, for --checkpoint of 'speak', 'sing' and 'fit-boundary', and a picture to OUT/mels.png.
    """

    folder: Positional[Path]
    """The prepared folder."""
    out: Path = Path("runs/acoustic")
    """Folder of the run: checkpoints, metrics.jsonl, and at the end the model."""
    preset: Literal["small", "paper"] = "small"
    """Sizes that train on a CPU, or those of the paper; sizes given below win over both."""
    hidden: int | None = None
    """Width of the front end and the decoder (128; paper 256)."""
    blocks: int | None = None
    """Blocks of each of the two (3; paper 4)."""
    expansion: int | None = None
    """Inner width of a block over its width (2; paper 4)."""
    channels: int | None = None
    """Channels of the denoiser (128; paper 256)."""
    layers: int | None = None
    """Layers of the denoiser (10; paper 20)."""
    cycle: int | None = None
    """Layers until its dilation is 1 again (1, no dilation; the paper's singing models have 4)."""
    prediction: Literal["v", "x0"] | None = None
    """What the denoiser predicts."""
    auxiliary_steps: int = 2000
    """Training steps of the first stage."""
    steps: int = 6000
    """Training steps of the second."""
    batch: int = 16
    """Recordings a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    hold_out: int | None = None
    """Recordings to keep from training, for validation; one in twenty unless given."""
    rate: int = 16000
    """Samples a second."""
    n_fft: int = 1024
    """Window of the mel spectra, in samples."""
    hop: int = 256
    """Samples from one mel frame to the next."""
    n_mels: int = 80
    """Bands of the mel spectra."""
    f_min: float = 0.0
    """Lowest frequency of the bands, in Hz."""
    f_max: float | None = None
    """Highest frequency of the bands, in Hz; half the rate, at most 8000, unless given."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.audio.acoustic_data import read_corpus
        from degauss.audio.acoustic_training import Recipe, fit
        from degauss.core.cli import write_resolved_config

        check_directory(self.out)
        recipe = Recipe(
            self.out,
            auxiliary_steps=self.auxiliary_steps,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            tracker="tensorboard",
        )
        mel = self._mel()
        with progress("reading recordings") as report:
            corpus = read_corpus(self.folder, mel, report)
        count = len(corpus.items)
        held_out = count // 20 if self.hold_out is None else self.hold_out
        check_range("hold_out", held_out, 0, count - 1)
        config = self._config(corpus)
        train, held = corpus.split(held_out, self.seed)
        write_resolved_config(self.out / "train.toml", self, data_sha256=corpus.digest)
        model = fit(config, train, held if held_out else None, recipe)
        does = "sings" if model.facts.sings else "speaks"
        print(f"wrote {self.out / 'model'}, which {does} as {', '.join(config.voices)}: {count - held_out} recordings")

    def _mel(self) -> MelConfig:
        from degauss.audio.spectra import MelConfig

        top = min(self.rate / 2, 8000.0) if self.f_max is None else self.f_max
        try:
            return MelConfig(self.rate, self.n_fft, self.hop, self.n_mels, self.f_min, top)
        except ValueError as error:
            raise InputError(f"the mel spectra cannot be made: {error}.") from None

    def _config(self, corpus: Corpus) -> AcousticConfig:
        from degauss.audio.acoustic import PAPER, AcousticConfig

        names = ("hidden", "blocks", "expansion", "channels", "layers", "cycle", "prediction")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        sizes = {**(PAPER if self.preset == "paper" else {}), **given}
        return AcousticConfig(corpus.phones, corpus.voices, corpus.mel, **sizes)
