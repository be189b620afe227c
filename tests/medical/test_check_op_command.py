"""`check-op`: what passes, what fails and why, and a geometry of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import Matrix
from degauss.medical.checking import check_operator, chord_error, read_geometry
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Beam, Detector, FanBeam, Grid, ParallelBeam, evenly
from degauss.medical.mri import even_lines
from degauss.medical.scans import write_scan
from degauss.medical.simulation import simulate_ct, simulate_mri
from degauss.medical.volumes import Volume

from ._oracles import SIZE, blobs_hu

Invoke = Callable[[list[str | Path]], tuple[int, str, str]]
Refusal = Callable[[Callable[[], Any]], str]

GRID = Grid(48, 40, (0.8, 1.1))
PARALLEL = ParallelBeam.covering(GRID, evenly(7))
FAN = FanBeam.covering(GRID, evenly(9, 360.0), 90.0, 150.0)

TOML = """
[grid]
rows = 48
columns = 40
spacing = [0.8, 1.1]

[beam]
views = 7
"""


# --- the checks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam", [PARALLEL, FAN], ids=["parallel", "fan"])
def test_our_projector_passes_all_three(beam: Beam) -> None:
    checks = check_operator(Tomography(GRID, beam), (1, *GRID.shape), (1, *beam.shape))
    assert [check.passed for check in checks] == [True] * 3
    assert checks[2].found < 5e-3


def test_an_operator_without_rays_has_two_checks() -> None:
    matrix = Matrix(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    checks = check_operator(matrix, (3,), (5,))
    assert [check.passed for check in checks] == [True, True]


class Wrong(Tomography):
    """A projector with one thing wrong."""

    def __call__(self, x: Tensor, /) -> Tensor:
        return 1.02 * super().__call__(x)

    @property
    def norm(self) -> float:
        return 1.1 * super().norm


def test_each_check_finds_what_it_is_for() -> None:
    adjoint, norm, chords = check_operator(Wrong(GRID, PARALLEL), (1, *GRID.shape), (1, *PARALLEL.shape))
    assert not adjoint.passed
    assert adjoint.found == pytest.approx(0.02, rel=0.9)
    assert not norm.passed
    assert norm.found == pytest.approx(0.1, abs=0.02)
    assert not chords.passed
    assert chords.found == pytest.approx(0.02, abs=0.005)
    assert "at most 1e-02 passes" in chords.sentence


@pytest.mark.parametrize(
    ("what", "beam"),
    [
        ("turned the other way", ParallelBeam(tuple(-a for a in PARALLEL.angles), PARALLEL.detector)),
        ("by five degrees", ParallelBeam(tuple(a + 5 for a in PARALLEL.angles), PARALLEL.detector)),
        ("bins of another size", ParallelBeam(PARALLEL.angles, Detector(PARALLEL.detector.bins, 0.85))),
        ("moved by a bin", ParallelBeam(PARALLEL.angles, Detector(PARALLEL.detector.bins, 0.8, 0.8))),
    ],
)
def test_a_geometry_that_is_not_that_of_the_rays_shows(what: str, beam: Beam) -> None:
    """The projector believes another geometry than the one that is asked about."""
    assert chord_error(Tomography(GRID, beam), GRID, PARALLEL) > 0.01, what


def test_a_detector_that_sees_nothing_is_told() -> None:
    beside = ParallelBeam((0.0, 90.0), Detector(3, 0.8, 100.0))
    with pytest.raises(InputError, match="no ray goes through the middle"):
        chord_error(lambda x: x, GRID, beside)  # pyright: ignore[reportArgumentType]


# --- a file -------------------------------------------------------------------------------------------------


def test_a_geometry_is_read(tmp_path: Path) -> None:
    file = tmp_path / "geometry.toml"
    file.write_text(TOML)
    assert read_geometry(file) == (GRID, PARALLEL)
    file.write_text(f"{TOML}arc = 90.0\nstart = 10\n[beam.detector]\nbins = 61\nspacing = 0.8\noffset = -1\n")
    assert read_geometry(file)[1] == ParallelBeam(evenly(7, 90.0, 10.0), Detector(61, 0.8, -1.0))
    fan = 'kind = "fan"\nsource_to_axis = 90\nsource_to_detector = 150'
    file.write_text(TOML.replace("views = 7", f"views = 9\n{fan}"))
    assert read_geometry(file)[1] == FAN
    file.write_text(TOML.replace("views = 7", "angles = [0, 30.5]"))
    assert read_geometry(file)[1].angles == (0.0, 30.5)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("rows = 48", "", "rows must be an integer, but is missing"),
        ("rows = 48", "row = 48", r"grid\.row is not a part of a geometry \(did you mean 'rows'\?\)"),
        ("[0.8, 1.1]", "[0.8]", "spacing must be two numbers, but is 1 numbers"),
        ("[0.8, 1.1]", "[0.8, -1]", "length in mm above 0"),
        ("views = 7", "", "views must be an integer, but is missing"),
        ("views = 7", "views = 7\nangles = [1.0]", "no views and no arc beside it"),
        ("views = 7", 'views = 7\nkind = "cone"', "kind must be 'parallel' or 'fan', but is 'cone'"),
        ("views = 7", 'views = 7\nkind = "fan"', "source_to_axis"),
        ("[grid]", "[grid", "is not TOML"),
    ],
)
def test_a_geometry_that_is_wrong_says_where(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "geometry.toml"
    file.write_text(TOML.replace(old, new))
    with pytest.raises(InputError, match=rf"geometry\.toml: .*{complaint}"):
        read_geometry(file)


# --- the command --------------------------------------------------------------------------------------------


def test_a_geometry_of_ones_own_is_checked(invoke: Invoke, here: Path) -> None:
    (here / "geometry.toml").write_text(TOML)
    status, out, error = invoke(["check-op", "--geometry", "geometry.toml"])
    assert (status, error) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        "error of the dot test",
        "error of the stored norm",
        "error along a disk's chords",
    ]
    assert out.count("passes") == 3


def test_scans_are_checked(invoke: Invoke, here: Path) -> None:
    ct = Volume.upright(blobs_hu(size=32), (2.0, 1.0, 1.0), "HU")
    beam = ParallelBeam.covering(Grid(32, 32), evenly(5))
    write_scan(here / "ct.h5", simulate_ct(ct, beam))
    status, out, _ = invoke(["check-op", "ct.h5"])
    assert status == 0
    assert out.count("passes") == 3
    mr = Volume.upright((blobs_hu() + 1000) / 1000, (2.0, 1.0, 1.0))
    write_scan(here / "mr.h5", simulate_mri(mr, even_lines(SIZE, 2.0, 0.25)))
    status, out, _ = invoke(["check-op", "mr.h5"])
    assert status == 0
    assert out.count("passes") == 2


def test_what_fails_exits_with_1_and_says_what(invoke: Invoke, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "geometry.toml").write_text(TOML)
    monkeypatch.setattr("degauss.medical.ct.Tomography", Wrong)
    status, out, error = invoke(["check-op", "--geometry", "geometry.toml"])
    assert status == 1
    assert out.count("fails") >= 2
    assert "degauss-medical: The error of the dot test is" in error


def test_a_scan_or_a_geometry_and_not_both(invoke: Invoke, refusal: Refusal, here: Path) -> None:
    (here / "geometry.toml").write_text(TOML)
    said = "expected a scan or a --geometry, and not both."
    assert refusal(lambda: invoke(["check-op"])) == said
    assert refusal(lambda: invoke(["check-op", "a.h5", "--geometry", "geometry.toml"])) == said
    assert "a.h5: does not exist" in refusal(lambda: invoke(["check-op", "a.h5"]))
    assert "b.toml: cannot be read" in refusal(lambda: invoke(["check-op", "--geometry", "b.toml"]))


def test_not_a_number_does_not_pass() -> None:
    from degauss.medical.checking import Check

    assert not Check("x", math.nan, 1.0).passed
