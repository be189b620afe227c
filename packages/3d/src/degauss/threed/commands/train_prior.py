"""`degauss-3d train-prior`: a prior of one's own meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.options import check_directory, progress


@dataclass(frozen=True, kw_only=True)
class TrainPrior:
    """Train a prior on pictures of meshes. Stop it and run it again: it goes on where it stopped.

    Each mesh file of the folder is a word, named by its stem, and each folder in it a word with several meshes; y is up
    and fronts look along +z. Those are all the words that the prior knows. Written to OUT are model/, for --prior of
    the other verbs, and samples.png: what it draws of each word from each side beside the truth. The model's card.json
    says how near the two are. With --no-views and --no-normals the prior is not told where it looks from, as
    text-to-image models are not, and shows what comes of it.
    """

    folder: Positional[Path]
    """Meshes (.glb, .gltf, .obj, .ply) with textures or colours; a folder is one word with several meshes."""
    out: Path = Path("prior")
    """Directory of the run: renders, checkpoints, metrics.jsonl, and at the end the model."""
    size: int = 32
    """Pixels a side."""
    views: bool = True
    """Tell the network where a picture is seen from."""
    normals: bool = True
    """Pictures have normals beside colours. They tell where one looks from, too."""
    elevation: tuple[float, float] = (-15.0, 60.0)
    """The lowest and the highest camera, degrees."""
    radius: tuple[float, float] = (2.1, 2.3)
    """The nearest and the farthest camera; objects are 1 long."""
    pictures: int = 1200
    """Pictures of each word."""
    width: int = 32
    """Channels of the network, a multiple of 4."""
    nameless: float = 0.12
    """Share of the pictures that are shown without their word, for guidance."""
    viewless: float = 0.1
    """Share of the pictures that are shown without their view."""
    steps: int = 4500
    """Training steps; the shipped prior took 4500."""
    batch: int = 32
    """Pictures a step."""
    lr: float = 1.5e-3
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
        from degauss.core.errors import InputError, check_range
        from degauss.core.options import device_of
        from degauss.threed.cameras import Orbits
        from degauss.threed.embedded_prior import SMALL, EmbeddedConfig
        from degauss.threed.prior_plots import samples_figure
        from degauss.threed.prior_quality import AZIMUTHS, Truth, drawn
        from degauss.threed.prior_training import Drawing, card_of, fit, recipe, root_mean_square
        from degauss.threed.view_images import read_classes

        check_directory(self.out)
        # What can be refused is refused before hours of work, and before meshes are read.
        check_range("pictures", self.pictures, 1)
        check_range("nameless", self.nameless, 0, 1)
        check_range("viewless", self.viewless, 0, 1)
        try:
            orbits = Orbits(elevation=self.elevation, radius=self.radius, fov=(40.0, 40.0))
        except ValueError:
            raise InputError(
                f"elevation must be two increasing angles in [-90, 90] and radius two increasing numbers above 0, but "
                f"they are {self.elevation} and {self.radius}."
            ) from None
        network = replace(SMALL, channels=self.width)
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
        classes = read_classes(self.folder)
        config = EmbeddedConfig(tuple(classes), self.size, self.views, self.normals, orbits, network)
        write_resolved_config(self.out / "train.toml", self)

        drawing = Drawing(orbits, self.size, self.normals, self.pictures, self.seed, self.out / "renders")
        with progress("drawing") as report:
            data, unseen = drawing.training(classes, report), drawing.unseen(classes, report)
        config = replace(config, sigma_data=round(root_mean_square(data), 4))
        prior = fit(config, data, unseen, settings, nameless=self.nameless, viewless=self.viewless)
        prior.to(device_of(self.device))
        meshes = {word: alternatives[0] for word, alternatives in classes.items()}
        card = card_of(prior, data, unseen, meshes, settings, {"words": list(classes)})
        prior.save(self.out / "model", card)
        truth = Truth.of(config, meshes)
        samples = drawn(prior, truth.views)
        samples_figure(self.out / "samples.png", prior.vocabulary, AZIMUTHS, truth.pictures, samples)
        found = card["metrics"]["samples"][0]
        print(
            f"wrote {self.out / 'model'} after {self.steps} steps, which knows {', '.join(prior.vocabulary)}: what it "
            f"draws has a PSNR of {found['psnr']:.1f} dB ({found['psnr_of_mean_picture']:.1f} by the mean picture of a "
            f"word) and shows the right word in {100 * found['right_word']:.0f} %, the right side too in "
            f"{100 * found['right_view']:.0f} %; see {self.out / 'samples.png'}"
        )
