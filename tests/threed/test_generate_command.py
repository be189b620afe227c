"""`generate`: a mesh and all that is kept of its run; going on; and one sentence for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from degauss.core.nets.ncsnpp import NCSNppConfig
from degauss.threed.cameras import Orbits
from degauss.threed.embedded_prior import EmbeddedConfig, EmbeddedPrior
from degauss.threed.mesh_files import read_mesh, read_provenance, write_mesh
from degauss.threed.splats import read_splats

from ._little import box

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

SMALL = [
    "--steps", "5", "--views", "2", "--size", "16", "--resolution", "12",
    "--grid", "16", "--texture", "32", "--frames", "2", "--snapshots", "2",
]  # fmt: skip
ORACLE = ["generate", "box", "--prior", "oracle:box.glb", *SMALL]
KEPT = {
    "checkpoint", "config.toml", "metrics.json", "metrics.jsonl", "process.png", "resolved.json", "sheet.png",
    "snapshots", "turntable.mp4",
}  # fmt: skip


@pytest.fixture
def mesh(here: Path) -> Path:
    write_mesh(here / "box.glb", box())
    return here / "box.glb"


@pytest.fixture
def prior(here: Path) -> Path:
    network = NCSNppConfig(channels=8, multipliers=(1, 2), patch=2)
    card = {"licence": "of our own making"}
    EmbeddedPrior.new(EmbeddedConfig(("cat", "dog"), 16, network=network)).save(here / "prior", card)
    return here / "prior"


def test_a_mesh_and_all_of_its_run(mesh: Path, invoke: Invoke, here: Path) -> None:
    status, out, error = invoke([*ORACLE, "--out", "a.glb"])
    assert (status, error) == (0, "")
    assert out.startswith("wrote a.glb and a: 5 steps, 10 evaluations")
    assert {file.name for file in (here / "a").iterdir()} == KEPT
    figures = json.loads((here / "a/metrics.json").read_text())
    assert figures["quality"].keys() >= {"psnr", "iou", "chamfer", "f_score"}
    assert figures["peak_memory_bytes"] > 1e6
    assert figures["seconds"].keys() == {"render", "prior", "backward", "upkeep"}
    made = read_provenance(here / "a.glb")
    assert made["prior"] == "oracle:box.glb"
    assert made["seed"] == 0
    assert made["prior_sha256"] == figures["prior_sha256"]
    assert "licence" in made
    assert made["run"] == json.loads((here / "a/resolved.json").read_text())
    assert read_mesh(here / "a.glb").texture is not None

    # The same command has nothing left to do, and its config.toml repeats it elsewhere.
    before = (here / "a.glb").read_bytes()
    assert invoke([*ORACLE, "--out", "a.glb"])[0] == 0
    # trimesh writes the date nowhere, but our provenance does.
    assert abs(len((here / "a.glb").read_bytes()) - len(before)) < 8
    assert invoke(["generate", "box", "--config", "a/config.toml", "--out", "b.glb"])[0] == 0
    assert json.loads((here / "b/metrics.json").read_text())["quality"] == figures["quality"]
    assert "another run: seed is 0 there and 1 here" in invoke([*ORACLE, "--out", "a.glb", "--seed", "1"])[2]


def test_splats_of_gaussians(mesh: Path, invoke: Invoke, here: Path) -> None:
    words = [*ORACLE, "--representation", "gaussians", "--gaussians", "60", "--out", "a.ply"]
    assert invoke(words)[0] == 0
    assert len(read_splats(here / "a.ply").means) >= 30
    assert json.loads((here / "a/metrics.json").read_text())["faces"] is None


def test_a_prior_of_ones_own(prior: Path, invoke: Invoke, here: Path) -> None:
    status, _, error = invoke(["generate", "cat", "--prior", prior, "--method", "vsd", *SMALL, "--out", "cat.glb"])
    assert status == 0, error
    figures = json.loads((here / "cat/metrics.json").read_text())
    assert figures["quality"] is None
    assert figures["licence"] == "of our own making"
    assert set(figures["janus"]) <= {"2", "3", "4", "5"}


@pytest.fixture
def shipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded prior that lies where the package's own does."""
    network = NCSNppConfig(channels=8, multipliers=(1, 2), patch=2)
    orbits = Orbits(elevation=(5.0, 25.0), radius=(2.3, 2.3), fov=(40.0, 40.0))
    config = EmbeddedConfig(("chair", "spot"), 16, orbits=orbits, network=network)
    place = here.parent / f"{here.name}-weights"
    EmbeddedPrior.new(config).save(place / "embedded", {"licence": "Apache-2.0"})
    monkeypatch.setattr("degauss.threed.embedded_prior.SHIPPED", place)


def test_the_prior_that_ships_is_measured_against_the_mesh_behind_its_word(
    shipped: None, invoke: Invoke, here: Path
) -> None:
    status, out, error = invoke(["generate", "chair", "--prior", "embedded", *SMALL, "--out", "chair.glb"])
    assert (status, error) == (0, "")
    assert "PSNR" in out
    figures = json.loads((here / "chair/metrics.json").read_text())
    assert figures["quality"].keys() >= {"psnr", "iou", "chamfer"}
    run = json.loads((here / "chair/resolved.json").read_text())
    assert run["orbits"]["elevation"] == [5.0, 25.0], "cameras must be those that the prior has seen"
    assert run["method"]["guidance"] == 3.0, "knowing the truth makes no oracle of a learned prior"
    made = read_provenance(here / "chair.glb")
    assert (made["prior"], made["licence"]) == ("embedded", "Apache-2.0")


def test_without_the_file_of_a_word_nothing_is_measured(
    shipped: None, invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEGAUSS_DATA", str(here))
    assert invoke(["generate", "spot", "--prior", "embedded", *SMALL, "--out", "spot.glb"])[0] == 0
    assert json.loads((here / "spot/metrics.json").read_text())["quality"] is None


def test_stable_dreamer_by_name(mesh: Path, invoke: Invoke, here: Path) -> None:
    words = [*ORACLE, "--representation", "gaussians", "--gaussians", "60", "--method", "stable-dreamer"]
    assert invoke([*words, "--out", "a.ply"])[0] == 0
    assert json.loads((here / "a/metrics.json").read_text())["method"] == "stable-dreamer"
    assert json.loads((here / "a/resolved.json").read_text())["shape"] == 0.5


def test_a_word_that_is_not_known_lists_those_that_are(prior: Path, refused: Refused) -> None:
    said = refused(["generate", "horse", "--prior", prior, "--out", "horse.glb"])
    assert "does not know 'horse'" in said
    assert "cat, dog" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "a.stl"], "expected a name that ends in .glb or .obj or .ply"),
        (["--out", "a.ply"], "splats are written of Gaussians, but this is a volume"),
        (["--method", "vsd"], "has none"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--method", "stable-dreamer", "--steps", "1"], "both stages need a step"),
        (["--method", "stable-dreamer", "--annealing", "none"], "has times of its own"),
        (["--rate", "0"], "learning rates must be above 0"),
        (["--faces", "1"], "faces must be at least 4"),
        (["--prior", "oracle:none.glb"], "there is no mesh 'none.glb'"),
        (["--prior", "nowhere"], "there is no prior 'nowhere'"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], says: str, mesh: Path, refused: Refused) -> None:
    assert says in refused([*ORACLE, *words])


def test_a_folder_of_other_things_is_left_alone(mesh: Path, here: Path, refused: Refused) -> None:
    (here / "a").mkdir()
    (here / "a/thesis.txt").write_text("mine")
    assert "holds other things than a run (thesis.txt)" in refused([*ORACLE, "--out", "a.glb"])
