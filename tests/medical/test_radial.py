"""Radial k-space from a volume to its reconstruction: weights, scans, commands, methods, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import Composed, ConjugateGradient, LinearOperator, Mask, least_squares
from degauss.core.noise import Noise
from degauss.medical import nifti
from degauss.medical.acquisition import RadialGeometry
from degauss.medical.evaluation import evaluate
from degauss.medical.memory import needed_bytes
from degauss.medical.methods import CG, DDNM, DDS, DDSTV, DPS, MBIR, TV, DiffPIR, PiGDM, REDDiff, Wavelet
from degauss.medical.metrics import data_residual, noise_residual
from degauss.medical.prior import SlicePrior, find_prior
from degauss.medical.problem import Method, Problem
from degauss.medical.radial import RadialMRI, golden_angles, largest_gap, nyquist_spokes, spoke_weights
from degauss.medical.reconstruction import describe
from degauss.medical.scans import Scan, read_scan
from degauss.medical.simulation import simulate_radial
from degauss.medical.volumes import Volume

from ._oracles import GaussianPrior, save_prior

Answer = tuple[int, str, str]
Invoke = Callable[[Sequence[str | Path]], Answer]
Refusal = Callable[[Callable[[], Answer]], str]

pytestmark = pytest.mark.usefixtures("finufft")

SIZE, SPOKES = 32, 10


@pytest.fixture
def finufft() -> None:
    pytest.importorskip("finufft", reason="radial scans need finufft (degauss-medical[radial])")


def head(slices: int = 3, size: int = SIZE) -> Volume:
    """Something like slices of a head: a bright rim, grey inside, dark ventricles, a bright spot."""
    near = torch.linspace(-1.1, 1.1, size)
    y, x = near[:, None], near[None]
    inside = (x / 0.75) ** 2 + (y / 0.95) ** 2
    one = 60.0 * (inside < 1) + 40.0 * (inside - 0.94).abs().lt(0.06)
    data = [
        one
        - 45 * (((x.abs() - 0.18) / 0.1) ** 2 + (y / (0.3 + 0.05 * k)) ** 2 < 1).float()
        + 25 * (((x - 0.35) / 0.12) ** 2 + ((y - 0.4) / 0.12) ** 2 < 1).float()
        for k in range(slices)
    ]
    return Volume.upright(torch.stack(data), (6.0, 4.0, 4.0))


def scan_of(spokes: int = SPOKES, slices: int = 3, sigma: float = 0.0) -> Scan:
    return simulate_radial(head(slices), golden_angles(spokes), 2 * SIZE, truth=True, sigma=sigma)


def error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).norm() / truth.norm())


# --- weights ------------------------------------------------------------------------------------------------


def test_weights_share_the_disk_of_k_space_out_among_the_samples() -> None:
    """Where spokes are dense, the cells are the disk |k| < pi; elsewhere, they are what a sample sees."""
    dense = spoke_weights((16, 12), tuple(180 * i / 200 for i in range(200)), 64)
    assert float(dense.sum()) == pytest.approx(math.pi**3, rel=2e-3)
    few = spoke_weights((16, 12), golden_angles(5), 64)
    assert float(few.max()) == pytest.approx((2 * math.pi / 64) * (2 * math.pi / 16))
    assert few.shape == (5, 64)
    assert bool((few > 0).all())
    middle = few[:, 30:35]
    assert bool((middle[:, [0, 1, 3, 4]] > middle[:, 2:3]).all())


@pytest.mark.parametrize("spokes", [6, 12, 40])
def test_weights_make_the_singular_values_alike(spokes: int) -> None:
    """What a raw scan sees is mostly far below its norm; what the weighed one sees is mostly near it."""
    size, angles = 12, golden_angles(spokes)
    raw = RadialMRI((size, size), angles, 2 * size)
    weighed = Composed(Mask(spoke_weights((size, size), angles, 2 * size).sqrt()), raw)
    before, after = (seen(operator, size) for operator in (raw, weighed))
    assert after > 0.65
    assert before < 0.25


def seen(operator: LinearOperator, size: int) -> float:
    """The mean squared singular value, over the squared norm, of the largest that hold 90 % of the sum."""
    basis = torch.eye(2 * size**2, dtype=torch.float64).reshape(-1, 2, size, size)
    values = torch.linalg.svdvals(operator(basis).flatten(1)).square()
    count = int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1
    return float(values[:count].mean() / values[0])


def test_few_conjugate_gradients_go_far() -> None:
    scan = scan_of()
    assert scan.truth is not None
    measurement = scan.measurement()
    few, many = (
        error(least_squares(measurement, torch.zeros(1, *scan.shape), ConjugateGradient(n))[0], scan.truth)
        for n in (3, 60)
    )
    assert few < 1.05 * many


def test_nyquist_and_gaps() -> None:
    assert nyquist_spokes((128, 96)) == 202
    assert largest_gap((0.0,)) == 180
    assert largest_gap((0.0, 45.0, 170.0)) == 125
    assert largest_gap(golden_angles(21)) < 1.7 * 180 / 21


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RadialMRI((4, 4), (math.nan,), 5), "angles of spokes must be finite"),
        (lambda: RadialMRI((4, 4), (0.0,), 0), "1 spokes of 0 samples"),
        (lambda: RadialMRI((4, 4), (0.0,), 4, torch.ones(2, 4, 5) + 0j), r"\[coils, 4, 4\], but are .*\(2, 4, 5\)"),
        (lambda: RadialMRI((4, 4), (0.0,), 4, torch.full((2, 4, 4), math.inf) + 0j), "finite complex numbers"),
    ],
)
def test_spokes_that_cannot_be_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


# --- scans --------------------------------------------------------------------------------------------------


def test_the_noise_of_a_slice_does_not_depend_on_the_others() -> None:
    def noise(slices: int) -> Tensor:
        clean, noisy = (scan_of(slices=slices, sigma=sigma) for sigma in (0.0, 0.1))
        return (noisy.y - clean.y) / noisy.sigma

    few, many = noise(3), noise(4)
    torch.testing.assert_close(many[:3], few, atol=1e-4, rtol=0)
    torch.testing.assert_close(few, Noise(0, range(3)).normal(few), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_the_truth_leaves_what_noise_leaves(sigma: float) -> None:
    scan = scan_of(sigma=sigma)
    assert scan.truth is not None
    left = data_residual(scan.measurement(), scan.truth[None])
    assert left == pytest.approx(noise_residual(scan), rel=0.05, abs=1e-5)
    said = evaluate(scan.volume(scan.truth), head(), scan=scan).sentences
    assert said[0].startswith("The volume explains its scan")
    wrong = evaluate(scan.volume(0.7 * scan.truth), head(), scan=scan).sentences
    assert wrong[0].startswith("Warning: the volume does not explain its scan")


def test_intervals_are_for_scans_with_as_many_spokes() -> None:
    facts = describe(scan_of(), CG(), None)
    assert (facts["spokes"], facts["samples"], facts["coils"], facts["modality"]) == (SPOKES, 2 * SIZE, 1, "mr")
    other = describe(scan_of(SPOKES + 12), CG(), None)
    assert {name for name, value in facts.items() if other[name] != value} == {"spokes", "largest_gap"}


def test_memory_counts_the_images_of_the_coils() -> None:
    scan = scan_of()
    maps = torch.ones(8, SIZE, SIZE, dtype=torch.complex64)
    geometry = RadialGeometry((SIZE, SIZE), golden_angles(SPOKES), 2 * SIZE, maps, real=True)
    y = scan.y[:, None].expand(-1, 8, -1, -1, -1)
    many = Scan(y, geometry, 0.0, None, 1.0, "arbitrary", 3, scan.place, scan.spacing)
    apart = needed_bytes(many, CG(), None, 1, 1) - needed_bytes(scan, CG(), None, 1, 1)
    assert apart > 7 * 3 * (3 * 8 * SIZE**2)


# --- methods ------------------------------------------------------------------------------------------------

EXACT: tuple[Method, ...] = (
    *(CG(), Wavelet(iterations=40), TV(iterations=10)),
    *(MBIR(30), DDS(8), DDSTV(8), DPS(8), PiGDM(8), DDNM(8), DiffPIR(8), REDDiff(40)),
)
NOISY = tuple(method for method in EXACT if method.name != "tv")


@pytest.mark.parametrize(
    ("method", "sigma"),
    [(method, sigma) for methods, sigma in ((EXACT, 0.0), (NOISY, 0.05)) for method in methods],
    ids=lambda value: value.name if isinstance(value, Method) else str(value),
)
def test_every_method_of_mri_explains_a_radial_scan(method: Method, sigma: float) -> None:
    """With a prior that knows the mean of the volume and little else, all come nearer to the truth than it."""
    scan = simulate_radial(head(size=16), golden_angles(8), 32, truth=True, sigma=sigma)
    assert scan.truth is not None
    mean = float(scan.truth.mean())
    prior: Any = GaussianPrior(mean, 0.3)
    problem = Problem(scan.measurement(), scan.shape, scan.spacing, "mr", prior)
    x = method(problem)
    assert x.shape == (1, *scan.shape)
    assert error(x[0], scan.truth) < 0.85 * error(torch.full_like(scan.truth, mean), scan.truth)
    if method.name != "dps":  # which ends where its step takes it
        assert data_residual(problem.measurement, x) < 0.06 + 1.1 * noise_residual(scan)


@pytest.mark.parametrize("method", [Wavelet(), DDS(8), REDDiff(24)], ids=lambda method: method.name)
def test_a_reconstruction_beats_the_zero_filled_image(method: Method) -> None:
    """The adjoint at the scale that suits it best, weighed, against wavelets and the shipped prior."""
    scan = scan_of()
    assert scan.truth is not None
    problem = Problem.of(scan, SlicePrior.load(find_prior("mr")))
    back = problem.measurement.operator.adjoint(problem.measurement.y)[0]
    zero_filled = error(back * (back * scan.truth).sum() / back.square().sum(), scan.truth)
    assert error(method(problem)[0], scan.truth) < 0.9 * zero_filled


# --- commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_prior(tmp_path_factory.mktemp("priors") / "mr", "mr")


@pytest.fixture
def volume(here: Path) -> Path:
    nifti.write(here / "mr.nii.gz", head())
    return here / "mr.nii.gz"


def test_a_radial_scan_is_simulated_checked_reconstructed_and_judged(
    invoke: Invoke, here: Path, volume: Path, prior: Path
) -> None:
    words = ["simulate", volume, "--mri", "--spokes", "16", "--sigma", "0.02", "--keep-truth"]
    status, out, complaint = invoke(words)
    assert (status, complaint) == (0, "")
    assert "3 slices of 32 x 32, 16 spokes of 64 samples (3.2 times fewer than Nyquist's 51), noise " in out
    scan = read_scan(here / "scan.h5")
    assert isinstance(scan.geometry, RadialGeometry)
    assert scan.geometry.angles == golden_angles(16)
    assert scan.geometry.real
    first = (here / "scan.h5").read_bytes()
    assert invoke(words)[0] == 0
    assert (here / "scan.h5").read_bytes() == first
    status, out, _ = invoke(["check-op", "scan.h5"])
    assert status == 0
    assert out.count("passes") == 2
    steps = ["--prior", prior, "--steps", "2"]
    for method, more in {"wavelet": [], "dds-tv": steps}.items():
        status, out, complaint = invoke(["reconstruct", "scan.h5", "--method", method, "--out", f"{method}.nii", *more])
        assert status == 0, complaint
        assert "axial PSNR" in out
        assert (here / f"{method}_montage.png").stat().st_size > 1000
    share = nifti.read(here / "wavelet_provenance.nii.gz").data
    assert 0.2 < float(share.mean()) < 1
    about = json.loads((here / "dds-tv_metrics.json").read_text())
    assert about["evaluations_a_slice"] == 2
    status, out, _ = invoke(["evaluate", "wavelet.nii", "--truth", volume, "--scan", "scan.h5"])
    assert status == 0
    assert "explains its scan: |y - A x| / |y| is" in out


def test_slabs_and_chunks_do_not_change_a_draw(invoke: Invoke, here: Path, volume: Path, prior: Path) -> None:
    assert invoke(["simulate", volume, "--mri", "--spokes", "9", "--spoke-samples", "40", "--phase", "0.5"])[0] == 0
    assert read_scan(here / "scan.h5").y.shape == (3, 2, 9, 40)
    for name, more in {"a": [], "b": ["--slab", "1", "--chunk", "1"]}.items():
        words = ["reconstruct", "scan.h5", "--method", "dds", "--steps", "3", "--seed", "4", "--out", f"{name}.nii"]
        assert invoke([*words, "--prior", prior, *more])[0] == 0
    a, b = (nifti.read(here / f"{name}.nii").data for name in "ab")
    torch.testing.assert_close(a, b, atol=1e-3 * float(a.max()), rtol=0)


def test_intervals_are_calibrated_for_spokes(invoke: Invoke, here: Path, volume: Path, prior: Path) -> None:
    words = [
        "calibrate",
        volume,
        "--prior",
        prior,
        "--spokes",
        "16",
        "--steps",
        "2",
        "--samples",
        "2",
        "--out",
        "record.json",
    ]
    status, _, complaint = invoke(words)
    assert status == 0, complaint
    assert json.loads((here / "record.json").read_text())["describes"]["spokes"] == 16


REFUSED: dict[str, tuple[list[str], str]] = {
    "ct": (["simulate", "mr.nii.gz", "--spokes", "8"], "--spokes is of MRI: expected --mri with it."),
    "acceleration": (
        ["simulate", "mr.nii.gz", "--mri", "--spokes", "8", "--acceleration", "4"],
        "--acceleration is of lines of k-space, but --spokes asks for spokes in their place.",
    ),
    "lines": (["simulate", "mr.nii.gz", "--mri", "--spokes", "8", "--lines", "even"], "--lines is of lines of k-space"),
    "none": (["simulate", "mr.nii.gz", "--mri", "--spokes", "0"], "spokes must be at least 1, but is 0"),
    "no spokes": (["simulate", "mr.nii.gz", "--mri", "--spoke-samples", "64"], "but no --spokes are asked for"),
    "no samples": (
        ["simulate", "mr.nii.gz", "--mri", "--spokes", "8", "--spoke-samples", "1"],
        "spoke-samples must be at least 2, but is 1",
    ),
    "calibrate": (["calibrate", "ct.npy", "--spokes", "8"], "--spokes is of MRI, but the volume is scanned by CT."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_options_that_contradict_each_other_are_refused(
    what: str, invoke: Invoke, refusal: Refusal, here: Path, volume: Path
) -> None:
    air = np.full((4, 16, 16), -1000, np.float32)
    air[:, 4:12, 4:12] = 40
    np.save(here / "ct.npy", air)
    words, says = REFUSED[what]
    assert says in refusal(lambda: invoke(words))


def test_without_finufft_one_sentence_names_the_extra(
    invoke: Invoke, refusal: Refusal, here: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(["simulate", volume, "--mri", "--spokes", "8"])[0] == 0
    monkeypatch.setitem(sys.modules, "finufft", None)
    says = "Radial scans need finufft: install degauss-medical[radial]."
    assert refusal(lambda: invoke(["simulate", volume, "--mri", "--spokes", "8", "--out", "b.h5"])) == says
    assert refusal(lambda: invoke(["reconstruct", "scan.h5", "--method", "cg"])) == says
    assert refusal(lambda: invoke(["check-op", "scan.h5"])) == says
