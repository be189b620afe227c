"""`train-generator`: all words of a prior in one network, stopped and gone on with, and each word taken out of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from degauss.core.errors import InputError
from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.threed.amortised import Distilled
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.generator import load_generator
from degauss.threed.generator_training import words_of
from degauss.threed.mesh_files import read_mesh, read_provenance, write_mesh
from degauss.threed.opening import open_scene
from degauss.threed.plots import read_picture
from degauss.threed.prior_sources import Source
from degauss.threed.quality import compare_views, held_out_views
from degauss.threed.shapes import shipped_mesh

from ._distilling import GaussianPrior
from ._little import box, oracle, oracle_orbits

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

SMALL = ["--steps", "3", "--words-a-step", "1", "--views", "2", "--size", "16", "--channels", "8", "--save-every", "2"]
KEPT = {"checkpoints", "metrics.json", "metrics.jsonl", "model", "model.json", "sheet.png", "train.toml"}


@pytest.fixture
def words(here: Path) -> list[str]:
    network = NCSNppConfig(channels=8, multipliers=(1,), patch=2)
    EmbeddedPrior.new(EmbeddedConfig(("cat", "dog"), 16, network=network)).save(here / "prior", {"licence": "ours"})
    return ["train-generator", "--prior", "prior", "--out", "run", *SMALL]


def weights(folder: Path) -> list[torch.Tensor]:
    return [weight.detach() for weight in load_generator(folder / "model").parameters()]


def test_a_generator_and_each_word_out_of_it(words: list[str], invoke: Invoke, here: Path) -> None:
    status, out, error = invoke([*words, "--method", "sds"])
    assert (status, error) == (0, "")
    assert out == "wrote run/model after 3 steps, which knows cat, dog; see run/sheet.png\n"
    assert {file.name for file in (here / "run").iterdir()} == KEPT
    generator = load_generator(here / "run/model")
    assert (generator.config.words, generator.config.resolution, generator.config.samples) == (("cat", "dog"), 8, 8)
    figures = json.loads((here / "run/metrics.json").read_text())
    assert (figures["method"], figures["renders"], figures["mean"]) == ("sds", 6, None)
    assert figures["words"] == {"cat": None, "dog": None}
    assert read_picture(here / "run/sheet.png").shape[1] > 300

    # The folder of the training and that of the generator alone are both the generator.
    for what in ("run", "run/model"):
        scene = open_scene(here / what, "dog")
        assert torch.equal(scene.get_parameter("raw"), generator.scene("dog").raw)
    status, out, error = invoke(
        ["export", "run", "--word", "dog", "--out", "dog.glb", "--grid", "16", "--texture", "32"]
    )
    assert (status, error) == (0, "")
    assert read_mesh(here / "dog.glb").texture is not None
    made = read_provenance(here / "dog.glb")
    assert (made["prompt"], made["prior"], made["licence"], made["seed"]) == ("dog", "prior", "ours", 0)
    assert made["run"]["method"]["name"] == "sds"
    assert made["prior_sha256"] == figures["prior_sha256"]
    assert invoke(["render", "run", "--word", "cat", "--out", "views", "--views", "2", "--size", "16"])[0] == 0
    assert (here / "views/rgb-0001.png").is_file()

    # Done is done: again, nothing is trained, and train.toml repeats it elsewhere.
    assert invoke([*words, "--method", "sds"])[0] == 0
    assert invoke(["train-generator", "--config", "run/train.toml", "--out", "again"])[0] == 0
    assert all(torch.equal(one, two) for one, two in zip(weights(here / "run"), weights(here / "again"), strict=True))


def test_what_was_stopped_goes_on_to_the_same_bits(
    words: list[str], invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke([*words, "--out", "whole"])[0] == 0
    plain: Callable[..., torch.Tensor] = Distilled.forward

    def stopped(self: nn.Module, batch: object, noise: object) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return plain(self, batch, noise)

    with monkeypatch.context() as patch:
        patch.setattr(Distilled, "forward", stopped)
        status, out, error = invoke(words)
    assert (status, out) == (128 + signal.SIGTERM, "")
    assert "after step 1 of 3; run the same command again" in error
    assert not (here / "run/model").exists()
    assert invoke(words)[0] == 0
    assert all(torch.equal(one, two) for one, two in zip(weights(here / "whole"), weights(here / "run"), strict=True))


def test_words_whose_meshes_are_known_are_measured(invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = NCSNppConfig(channels=8, multipliers=(1,), patch=2)
    place = here.parent / f"{here.name}-weights"
    EmbeddedPrior.new(EmbeddedConfig(("mug", "cat"), 16, network=network)).save(place / "embedded")
    monkeypatch.setattr("degauss.threed.embedded_prior.SHIPPED", place)
    status, out, error = invoke(["train-generator", "--out", "run", *SMALL, "--method", "sds", "--looks", "1"])
    assert (status, error) == (0, "")
    figures = json.loads((here / "run/metrics.json").read_text())
    own = compare_views(load_generator(here / "run/model").scene("mug"), shipped_mesh("mug"), held_out_views(64))
    assert figures["words"]["cat"] is None
    assert figures["words"]["mug"]["psnr"] == pytest.approx(own.psnr, abs=1e-4)
    assert figures["mean"] == figures["words"]["mug"]
    assert f"PSNR {own.psnr:.1f} dB and IoU {own.iou:.2f} on views held out, the mean over 1;" in out
    logged = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["psnr"] for line in logged if "psnr" in line][-1] == pytest.approx(own.psnr, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--words", "cat", "horse"], "does not know 'horse'"),
        (["--words", "cat", "cat"], "all different"),
        (["--channels", "10"], "multiples of 4"),
        (["--channels", *("8",) * 6], "at most 5"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--looks", "0"], "looks must be at least 1"),
        (["--save-every", "0"], "save-every must be at least 1"),
        (["--rate", "0"], "rate must be above 0"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--prior", "nowhere"], "there is no prior 'nowhere'"),
        (["--out", "prior/card.json"], "is a file; expected a directory"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], options: list[str], says: str, refused: Refused) -> None:
    assert says in refused([*words, *options])


def test_an_oracle_has_one_word_and_no_network_for_vsd(here: Path, refused: Refused) -> None:
    assert words_of(oracle(), ()) == ("box",)
    write_mesh(here / "box.glb", box())
    said = refused(["train-generator", "--prior", "oracle:box.glb", *SMALL, "--method", "vsd"])
    assert "VSD adapts a prior's network" in said


def test_a_prior_of_any_text_must_be_told_words() -> None:
    known = GaussianPrior({None: (0.0, 1.0)})
    known.vocabulary = None  # type: ignore[assignment]
    source = Source(known, "text", "0" * 64, "ours", oracle_orbits(), False)
    assert words_of(source, ("a red chair",)) == ("a red chair",)
    with pytest.raises(InputError, match="takes any text and has no list of words"):
        words_of(source, ())


def test_a_folder_goes_on_only_as_what_it_is(words: list[str], invoke: Invoke, here: Path, refused: Refused) -> None:
    assert invoke([*words, "--method", "sds", "--steps", "1"])[0] == 0
    said = refused([*words, "--method", "sds"])
    assert "run holds the training of a generator with steps = 1, but steps = 3 is asked for" in said
    assert "with method.name = sds, but method.name = asd" in refused([*words, "--method", "asd", "--steps", "1"])
    EmbeddedPrior.load(here / "prior").save(here / "other", {"licence": "another"})
    said = refused([*words, "--method", "sds", "--steps", "1", "--prior", "other"])
    assert "with prior_sha256 = " in said

    assert "say by --word whose scene is meant, one of cat, dog" in refused(["export", "run"])
    assert "must be one of 'cat', 'dog', but is 'cow'" in refused(["export", "run", "--word", "cow"])
    assert "is not the folder of a generator, so it has no scene of the word 'cat'" in refused(
        ["export", "prior", "--word", "cat"]
    )
    assert "is not the folder of a generator" in refused(["render", "none.glb", "--word", "cat"])
