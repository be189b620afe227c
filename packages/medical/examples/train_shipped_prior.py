"""Train a prior of slices that the package ships: of CT, or of MR of the head.

    python packages/medical/examples/train_shipped_prior.py OUT --modality ct|mr [--steps N] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take about 70 minutes on one CPU core.
``OUT/model`` is the model, with its ``card.json`` beside it; with ``--score`` an existing one is only measured.

CT learns from a chest, a head and the atlas of a brain, and is looked at in the top of the chest, which it does not
see. MR learns from T1, T2 and FLAIR of two heads and, where nilearn is installed, from the average of many; it is
looked at in the top of one of them. The CT of the torso and the T1 of OASIS are never touched: they are what methods
are tested on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.measure import label

from degauss.core.errors import InputError
from degauss.core.shipping import made_by, parser, settings_of, ship
from degauss.core.train import TrainConfig
from degauss.medical import datasets
from degauss.medical.acquisition import Modality
from degauss.medical.prior import FULL, SHIPPED, PriorConfig, SlicePrior
from degauss.medical.prior_training import card_of, fit, recipe, root_mean_square
from degauss.medical.slices import Cuts, Slices, Source
from degauss.medical.volumes import Volume

GAP = 4  # slices between what is trained on and what is not
VOLUMES = "TotalSegmentator repository (Apache-2.0)"
HEADS = "VolumeRenderingData (MIT)"


class Data(NamedTuple):
    """What is trained on, what is looked at, and where it all comes from."""

    training: tuple[Source, ...]
    held_out: tuple[Source, ...]
    cuts: Cuts
    origins: list[str]


def below(volume: Volume, share: float, weight: float) -> Source:
    """The slices of a volume under its top ``share``."""
    return Source.of(volume.cropped(range(round((1 - share) * len(volume.data)))), weight)


def above(volume: Volume, share: float) -> Source:
    """The slices of the top ``share``, a gap away from those below."""
    count = len(volume.data)
    return Source.of(volume.cropped(range(round((1 - share) * count) + GAP, count)))


def in_air(volume: Volume) -> Volume:
    """The atlas of a brain, whose outside is stored as water, with air there."""
    regions: Any = label(volume.data.abs().numpy() < 0.5, background=-1, connectivity=1)
    outside = torch.from_numpy(regions == regions[0, 0, 0])
    return volume.with_data(volume.data.masked_fill(outside, -1000.0))


def head() -> Source:
    """The slices of a head as the scanner made them; that they lie at two distances and tilted is no matter here."""
    slices = sorted(datasets.ct_head_slices(), key=lambda one: float(one.position @ one.normal))
    values = torch.from_numpy(np.stack([one.values for one in slices]))
    return Source.of(Volume.upright(values, (1.0, *slices[0].spacing), "HU"))


def ct() -> Data:
    chest = datasets.ct_chest()
    atlas = Source.of(in_air(datasets.ct_brain_atlas()), weight=0.25)
    return Data(
        training=(below(chest, 0.2, 1.0), head(), atlas),
        held_out=(above(chest, 0.2),),
        cuts=Cuts(),
        origins=[
            f"CT of a chest, all but its top 20 %: {VOLUMES}",
            "CT of a head, GE: dcm_qa_ct (BSD-2-Clause)",
            f"atlas of brain CT: {VOLUMES}",
        ],
    )


def mr() -> Data:
    t1 = datasets.stroke("T1")
    training = [
        Source.of(datasets.head_t1()),
        below(t1, 0.25, 1.0),
        below(datasets.stroke("T2"), 0.25, 0.5),
        below(datasets.stroke("FLAIR"), 0.25, 0.5),
    ]
    origins = [f"T1 of a head: {HEADS}", f"T1, T2 and FLAIR of a stroke, all but the top 25 %: {HEADS}"]
    if importlib.util.find_spec("nilearn") is not None:
        training.append(Source.of(datasets.mni_t1(), weight=0.5))
        origins.append("ICBM 152 2009a, average T1 of 152 heads: McGill University (permissive notice)")
    # A head fills its field of view, as a body need not.
    return Data(tuple(training), (above(t1, 0.25),), Cuts(view=(180.0, 320.0), intensity=0.2, phased=0.3), origins)


DATA: dict[Modality, Callable[[], Data]] = {"ct": ct, "mr": mr}
LIMITS = {
    "ct": "Trained on one chest, one head and one atlas; other regions and scanners are strange to it.",
    "mr": "Trained on two heads and an average; other regions, contrasts and scanners are strange to it.",
}


def main() -> None:
    options = parser(__doc__, steps=6000, batch=8, lr=1e-3)
    options.add_argument("--modality", choices=tuple(DATA), required=True)
    arguments = options.parse_args()

    data = DATA[arguments.modality]()
    slices = Slices(data.training, data.cuts, arguments.batch, arguments.seed)
    held_out = Slices(data.held_out, data.cuts, arguments.batch, arguments.seed + 1)
    settings = recipe(arguments.out, **settings_of(arguments))
    if arguments.score:
        prior = SlicePrior.load(arguments.out / "model")
    else:
        config = PriorConfig(
            arguments.modality,
            FULL[arguments.modality],
            size=max(data.cuts.sizes),
            spacing=data.cuts.spacing,
            sigma_data=root_mean_square(slices),
        )
        prior = fit(config, slices, held_out, settings)
    finish(arguments, prior, data, (slices, held_out), settings)


def finish(
    arguments: argparse.Namespace, prior: SlicePrior, data: Data, slices: tuple[Slices, Slices], settings: TrainConfig
) -> None:
    """Measure the prior, write its card, and install it where that is asked for."""
    modality: Modality = arguments.modality
    folder = arguments.out / "model"
    if prior.config.modality != modality:
        raise InputError(f"{folder} is a prior of {prior.config.modality}, not of {modality}.")
    card: dict[str, Any] = {
        **made_by(modality, "packages/medical/examples/train_shipped_prior.py", arguments, f"--modality {modality}"),
        "licence": "Apache-2.0",
        "never_seen": "the CT of the torso (TotalSegmentator repository), the T1 of OASIS (voxelmorph)",
        "limits": f"{LIMITS[modality]} Not for diagnostic use.",
        **card_of(prior, *slices, settings, {"volumes": data.origins}),
    }
    print(json.dumps(card["metrics"], indent=2))
    ship(arguments, card, SHIPPED / modality)


if __name__ == "__main__":
    main()
