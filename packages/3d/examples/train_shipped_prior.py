"""Train the prior that the package ships, or its twin that is never told where it looks from.

    python packages/3d/examples/train_shipped_prior.py OUT [--twin] [--steps N] [--install]

Interrupt it and run it again: it goes on where it stopped. The defaults take about 40 minutes on one CPU core, a third
of it for the twin. ``OUT/model`` is the model, with its ``card.json`` beside it, and ``OUT/samples.png`` shows what it
draws; with ``--score`` an existing one is only measured.

It learns from two works that their author gave to the public, and from objects that `degauss.threed.shapes` makes.
"""

from __future__ import annotations

import json
from pathlib import Path

from degauss.core.options import device_of, progress
from degauss.core.shipping import made_by, parser, settings_of, ship
from degauss.threed.embedded_prior import ORBITS, SHIPPED, EmbeddedConfig, EmbeddedPrior
from degauss.threed.prior_plots import samples_figure
from degauss.threed.prior_quality import AZIMUTHS, Truth, drawn
from degauss.threed.prior_training import Drawing, card_of, fit, recipe, root_mean_square
from degauss.threed.shapes import SHIPPED as WORDS
from degauss.threed.shapes import shipped_mesh

SIZE, PICTURES = 32, 1200
LIMITS = {
    "embedded": "It knows one object a word, at 32 x 32 pixels: for learning, tests and comparing methods. It is no "
    "text-to-image model.",
    "twin": "It is never told where it looks from, as text-to-image models are not, so what is distilled from it has "
    "more than one face: for measuring that.",
}


def main() -> None:
    options = parser(__doc__, steps=None, batch=32, lr=1.5e-3)
    options.add_argument("--twin", action="store_true", help="without views, of colours alone")
    options.add_argument("--renders", type=Path, help="where pictures are kept, OUT/renders unless given")
    arguments = options.parse_args()
    name, informed = ("twin", False) if arguments.twin else ("embedded", True)
    arguments.steps = arguments.steps or (4500 if informed else 1500)

    meshes = {word: shipped_mesh(word) for word in WORDS}
    classes = {word: [mesh] for word, mesh in meshes.items()}
    renders = arguments.renders or arguments.out / "renders"
    drawing = Drawing(ORBITS, SIZE, informed, PICTURES, arguments.seed, renders)
    with progress("drawing") as report:
        data, unseen = drawing.training(classes, report), drawing.unseen(classes, report)
    settings = recipe(arguments.out, **settings_of(arguments))
    if arguments.score:
        prior = EmbeddedPrior.load(arguments.out / "model")
    else:
        sigma_data = round(root_mean_square(data), 4)
        config = EmbeddedConfig(WORDS, SIZE, views=informed, normals=informed, sigma_data=sigma_data)
        prior = fit(config, data, unseen, settings)
    prior.to(device_of(arguments.device))
    found = card_of(prior, data, unseen, meshes, settings, {})
    card = {
        **made_by(name, "packages/3d/examples/train_shipped_prior.py", arguments, "" if informed else "--twin"),
        "trained_on": [
            "Spot and Blub by Keenan Crane (public domain, by their author), Blub in colours of our own",
            "snowman, chair, mug and car of degauss.threed.shapes (Apache-2.0)",
        ],
        "licence": "Apache-2.0",
        "limits": LIMITS[name],
        **{key: found[key] for key in ("knows", "pictures", "parameters", "metrics")},
    }
    truth = Truth.of(prior.config, meshes)
    samples_figure(arguments.out / "samples.png", prior.vocabulary, AZIMUTHS, truth.pictures, drawn(prior, truth.views))
    print(json.dumps(card["metrics"], indent=2))
    ship(arguments, card, SHIPPED / name)


if __name__ == "__main__":
    main()
