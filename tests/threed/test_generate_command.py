"""`generate`: a mesh and all that is kept of its run; going on; and one sentence for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from degauss.core.nets.ncsnpp import NCSNppConfig
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
