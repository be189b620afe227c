"""`degauss-medical train-prior`: a prior of one's own volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.options import check_directory


@dataclass(frozen=True, kw_only=True)
class TrainPrior:
    """Train a prior of axial slices on the volumes of a folder. Stop it and run it again: it goes on where it stopped.

    Written to OUT are model/, for --prior of 'reconstruct', and samples.png: slices that the prior draws beside
    held-out ones, and the loss. The model's card.json says how well it denoises beside simple filters, and how near its
    samples come to what it was trained on. The model's folder holds no names and no paths.
    """

    folder: Positional[Path]
    """NIfTI files, .npz or .npy, and folders of DICOM slices; CT in Hounsfield units. All are kept in memory."""
    modality: Literal["ct", "mr"]
    """What the volumes are."""
    out: Path = Path("prior")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    sizes: tuple[int, ...] = (64, 128)
    """Pixels a side of the slices that it is trained on."""
    view: tuple[float, float] | None = None
    """The shortest and the longest field of view in mm; pixels are of view / size. From the volumes unless given."""
    rotation: float = 10.0
    """Slices are turned by up to so many degrees."""
    shift: float = 0.05
    """Slices are shifted by up to so large a part of the field of view."""
    intensity: float | None = None
    """Values are multiplied by up to e to this, or divided; 0.2 for MR and 0 for CT unless given."""
    phased: float | None = None
    """Share of the slices seen as the real part of a complex image; 0.3 for MR and 0 for CT unless given."""
    held_out: float = 0.2
    """Share of the volumes that is held out (of a single volume, of its slices)."""
    straighten: float | None = None
    """Resample tilted or unevenly spaced DICOM slices to so many mm apart; they are refused unless this is given."""
    width: int = 32
    """Channels of the network, a multiple of 4."""
    steps: int = 20000
    """Training steps; the shipped priors took 6000."""
    batch: int = 8
    """Slices a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from dataclasses import replace

        from degauss.core.cli import write_resolved_config
        from degauss.medical.prior import FULL, SMALL, PriorConfig
        from degauss.medical.prior_plots import curve, training_figure
        from degauss.medical.prior_quality import drawn
        from degauss.medical.prior_training import card_of, fit, recipe, root_mean_square
        from degauss.medical.slices import Cuts, Slices
        from degauss.medical.training_volumes import read_folder

        check_directory(self.out)
        # What can be refused is refused before hours of work, and before volumes are read.
        network = replace(SMALL, channels=self.width)
        varied = 1.0 if self.modality == "mr" else 0.0
        cuts = Cuts(
            sizes=self.sizes,
            view=self.view or Cuts().view,
            rotation=self.rotation,
            shift=self.shift,
            intensity=0.2 * varied if self.intensity is None else self.intensity,
            phased=0.3 * varied if self.phased is None else self.phased,
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
        volumes = read_folder(
            self.folder, self.modality, held_out=self.held_out, seed=self.seed, straighten=self.straighten
        )
        cuts = replace(cuts, view=self.view or volumes.view)
        data = Slices(volumes.training, cuts, self.batch, self.seed)
        held_out = Slices(volumes.held_out, cuts, self.batch, self.seed + 1)
        config = PriorConfig(
            self.modality,
            FULL[self.modality],
            network,
            size=max(cuts.sizes),
            spacing=cuts.spacing,
            sigma_data=root_mean_square(data),
        )
        write_resolved_config(self.out / "train.toml", self)
        prior = fit(config, data, held_out, settings)
        card = card_of(prior, data, held_out, settings, {"volumes": volumes.volumes})
        prior.save(self.out / "model", card)
        size = max(cuts.sizes)
        metrics = self.out / "metrics.jsonl"
        losses = curve(metrics, "loss"), curve(metrics, "held_out_loss")
        training_figure(self.out / "samples.png", drawn(prior, 8, size), held_out.stack(range(8), size), *losses)
        low, high = config.spacing
        print(
            f"wrote {self.out / 'model'} after {self.steps} steps, for pixels of {low:.3g} to {high:.3g} mm: loss "
            f"{losses[1][-1][1]:.3g} on held-out slices (1 says nothing); samples are in {self.out / 'samples.png'}"
        )
