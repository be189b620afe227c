"""`degauss-audio train-enhancer`: a model that cleans recordings, of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_directory


@dataclass(frozen=True, kw_only=True)
class TrainEnhancer:
    """Train an enhancer on a folder. Stop it and run it again: it goes on where it stopped.

    The folder holds clean/ and noisy/ with files of the same names (as VoiceBank-DEMAND, also in train/ and valid/), or
    clean/ and noise/, which are mixed anew all the time; a folder inside clean/ is a speaker. Reverberation is removed
    by a model of pairs whose noisy side is reverberant, or of mixtures with --rooms, for which clean/ alone is enough.
    The model is written to OUT/model, for --checkpoint of 'enhance'.
    """

    folder: Positional[Path]
    """Folder with the recordings, of any rate."""
    out: Path = Path("runs/enhancer")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    method: Literal["storm", "sgmse", "predictive"] = "storm"
    """StoRM (a predictive model and diffusion from what it says), SGMSE+ (diffusion alone), or a predictive model."""
    rate: int = 16000
    """Samples a second that the model works at."""
    predictive: Literal["ncsnpp", "mask"] = "ncsnpp"
    """Network of the predictive model: as published, or a recurrent mask, which learns far more quickly on a CPU."""
    size: Literal["tiny", "small", "storm"] = "small"
    """Of each network: about 0.3, 1.0 or 27.8 million weights (the published one, for a GPU)."""
    parametrisation: Literal["residual", "score"] = "residual"
    """How the diffusion network is used: preconditioned, for short trainings, or as published."""
    steps: int = 20000
    """Training steps; of StoRM, those of both networks together."""
    first_steps: int | None = None
    """Steps of StoRM's predictive network alone, before; as many as --steps unless given."""
    batch: int = 8
    """Segments a step."""
    seconds: float = 2.0
    """Length of a segment."""
    snr: tuple[float, float] = (-5.0, 15.0)
    """Range of the ratio of speech to noise in dB, where noise is mixed in."""
    rooms: float = 0.0
    """Share of the mixtures that is spoken in simulated rooms, 0 to 1 (needs the extra 'rooms')."""
    lr: float = 1e-3
    """Peak learning rate; the published one, for much longer trainings, is 1e-4."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.audio.enhancement import EnhancerConfig, spectrum_for
        from degauss.audio.enhancement_training import fit, recipe, training_folder
        from degauss.audio.masker import MASK_LOSS, MaskerConfig
        from degauss.core.cli import write_resolved_config
        from degauss.core.errors import check_range
        from degauss.core.nets import ncsnpp

        check_directory(self.out)
        if self.first_steps is not None:
            check_range("first_steps", self.first_steps, 1)
        if self.method == "sgmse" and self.predictive == "mask":
            raise InputError("SGMSE+ has no predictive model, but --predictive mask is given.")
        size = {"tiny": ncsnpp.TINY, "small": ncsnpp.SMALL, "storm": ncsnpp.STORM}[self.size]
        mask = MaskerConfig({"tiny": 96, "small": 160, "storm": 920}[self.size])
        first = size if self.predictive == "ncsnpp" else mask
        config = EnhancerConfig(
            rate=self.rate,
            spectrum=spectrum_for(self.rate),
            predictive=None if self.method == "sgmse" else first,
            score=None if self.method == "predictive" else size,
            by_magnitude=0.0 if first is size else MASK_LOSS,
            parametrisation=self.parametrisation,
        )
        settings = recipe(
            self.out,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            tracker="tensorboard",
        )
        data = training_folder(self.folder, self.rate, self.seconds, self.snr, self.seed, self.rooms)
        data.train([0])  # a file that cannot be used is found before anything is written
        write_resolved_config(self.out / "train.toml", self)
        fit(config, data.train, settings, first_steps=self.first_steps, valid=data.valid)
        print(f"wrote {self.out / 'model'} after {self.steps} steps")
