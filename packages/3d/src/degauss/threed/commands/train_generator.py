"""`degauss-3d train-generator`: one generator for all words of a prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_directory, device_of


@dataclass(frozen=True, kw_only=True)
class TrainGenerator:
    """Train one network that makes the voxels of every word of a prior at once, where 'generate' makes one word's.

    Stop it and run it again: it goes on where it stopped, and ends at the same bits. Written to OUT are model/, the
    generator; sheet.png, each word from around, below its true mesh where that is known; and metrics.json, how near
    the two are. 'export', 'render' and 'view' take a word's scene out of it: export OUT --word spot --out spot.glb.
    """

    out: Path = Path("generator")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the generator."""
    words: tuple[str, ...] = ()
    """Which words of the prior; all of them unless given."""
    method: Literal["sds", "asd", "vsd"] = "sds"
    """How the prior's opinion becomes a gradient. Of the three, sds ends nearest to the meshes on the prior that ships;
    vsd adapts a network, which an oracle does not have."""
    prior: str = "embedded"
    """embedded: the one that ships; a folder: of one that 'train-prior' wrote; oracle:MESH: the exact one of a mesh
    file, or of a public mesh such as oracle:spot."""
    steps: int = 600
    """Steps of Adam; the noise falls over them, so that a longer run is another run."""
    words_a_step: int = 3
    """Words that a step has."""
    views: int = 4
    """Renders of each word of a step."""
    size: int = 32
    """Pixels a side of the renders during training, and of an oracle's images."""
    guidance: float | None = None
    """Classifier-free guidance: 1 is the word alone, and the default for an oracle; else the default is 3."""
    annealing: Literal["paper", "mvdream", "falling", "none"] = "mvdream"
    """How the noise at which the prior is asked falls over the run: as in the method's paper, or in MVDream's
    configuration, or one level a step."""
    channels: tuple[int, ...] = (48, 32, 16)
    """Of the network, one for each doubling of the 4 voxels a side that it begins with: three make 32."""
    rate: float = 4e-3
    """Learning rate of Adam."""
    looks: int = 4
    """How often scores are taken."""
    save_every: int = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def run(self) -> None:
        from degauss.core.cli import write_resolved_config
        from degauss.threed.amortised import AmortisedConfig, check
        from degauss.threed.generator import GeneratorConfig
        from degauss.threed.generator_training import kept, train_generator, words_of
        from degauss.threed.methods import MethodConfig
        from degauss.threed.prior_sources import open_prior

        check_directory(self.out)
        check_range("looks", self.looks, 1)
        check_range("save-every", self.save_every, 1)
        check_range("seed", self.seed, 0)
        if len(self.channels) > 5:
            raise InputError(f"channels are at most 5, which make 128 voxels a side, but are {len(self.channels)}.")
        device = device_of(self.device)
        source = open_prior(self.prior, self.size, device)
        guidance = self.guidance if self.guidance is not None else 1.0 if source.exact else 3.0
        config = AmortisedConfig(
            GeneratorConfig(words_of(source, self.words), self.channels, samples=4 * 2 ** len(self.channels)),
            MethodConfig(self.method, guidance, annealing=self.annealing),
            self.steps,
            self.words_a_step,
            self.views,
            self.size,
            source.orbits,
            self.rate,
            self.seed,
        )
        # What can be refused is refused before anything is written.
        check(config, source.prior, self.out, kept(source))
        write_resolved_config(self.out / "train.toml", self, prior_sha256=source.sha256)
        figures = train_generator(config, source, self.out, self.looks, self.save_every, device)
        mean, known = figures["mean"], sum(score is not None for score in figures["words"].values())
        judged = (
            ""
            if mean is None
            else (f", PSNR {mean['psnr']:.1f} dB and IoU {mean['iou']:.2f} on views held out, the mean over {known}")
        )
        print(
            f"wrote {self.out / 'model'} after {self.steps} steps, which knows {', '.join(config.generator.words)}"
            f"{judged}; see {self.out / 'sheet.png'}"
        )
