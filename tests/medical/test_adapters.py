"""deepinv's physics as operators here and the other way round: the same numbers, exact adjoints, axes in place."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import LinearOperator, Matrix, dot_test, spectral_norm
from degauss.core.noise import Noise
from degauss.medical.adapters import from_deepinv, from_deepinv_volume, to_deepinv
from degauss.medical.ct import Tomography
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.mri import CartesianMRI

SIZE, SLICES = 24, 3


class Doubled:
    """A physics of two lines that knows nothing of deepinv: twice the image, rows and columns swapped."""

    def A(self, x: Tensor) -> Tensor:
        return 2 * x.mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        return 2 * y.mT


def volume(*event: int, batch: int = 2) -> Tensor:
    return Noise(0, range(batch)).normal(torch.empty(batch, *event))


def test_each_slice_goes_through_a_two_dimensional_physics() -> None:
    operator, x = from_deepinv(Doubled(), (SLICES, 4, 5)), volume(SLICES, 4, 5)
    y = operator(x)
    assert isinstance(operator, LinearOperator)
    assert y.shape == (2, SLICES, 1, 5, 4)
    assert torch.equal(y[1, 2, 0], 2 * x[1, 2].T)
    assert operator.adjoint(y).shape == x.shape
    assert operator.norm == pytest.approx(2, rel=1e-6)
    assert dot_test(operator, x, y) < 1e-6


def test_the_parts_of_complex_images_are_the_channels_of_a_physics() -> None:
    operator, x = from_deepinv(Doubled(), (SLICES, 2, 4, 5)), volume(SLICES, 2, 4, 5)
    assert torch.equal(operator(x), 2 * x.mT)
    whole = from_deepinv_volume(Doubled(), (SLICES, 2, 4, 5))
    assert torch.equal(whole(x), 2 * x.transpose(1, 2).mT)
    assert torch.equal(whole.adjoint(whole(x)), 4 * x)
    assert dot_test(whole, x, whole(x)) < 1e-6


@pytest.mark.parametrize("event", [(4, 5), (3, 1, 4, 5), (1, 2, 3, 4, 5), (0, 4, 5)])
def test_an_event_of_no_volume_is_refused(event: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"must be \(slices, rows, columns\)"):
        from_deepinv(Doubled(), event)


def test_a_volume_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"end in \(4, 5\).*\(2, 3, 5, 4\)"):
        from_deepinv(Doubled(), (SLICES, 4, 5))(volume(SLICES, 5, 4))


def test_a_physics_of_several_measurements_is_refused() -> None:
    class Two:
        def A(self, x: Tensor) -> list[Tensor]:
            return [x, x]

        def A_adjoint(self, y: list[Tensor]) -> Tensor:
            return y[0] + y[1]

    with pytest.raises(InputError, match="one tensor, but gave a list"):
        from_deepinv(Two(), (SLICES, 4, 5))(volume(SLICES, 4, 5))


def test_without_deepinv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    monkeypatch.setitem(sys.modules, "deepinv.physics", None)
    with pytest.raises(InputError, match=r"degauss-medical\[deepinv\]"):
        to_deepinv(Matrix(torch.eye(3)))


# --- beside deepinv -----------------------------------------------------------------------------------------

# What deepinv and what it imports warn of is theirs.
beside = pytest.mark.filterwarnings("ignore")


@beside
def test_tomography_of_deepinv_is_that_of_here_to_a_percent() -> None:
    physics = pytest.importorskip("deepinv.physics")
    angles = evenly(6)
    theirs = physics.Tomography(angles=torch.tensor(angles), img_width=SIZE, circle=False, normalize=False)
    operator = from_deepinv(theirs, (SLICES, SIZE, SIZE))
    grid = Grid(SIZE, SIZE)
    ours = Tomography(grid, ParallelBeam.covering(grid, angles))
    near = torch.linspace(-1, 1, SIZE)
    x = torch.exp(-6 * (near[:, None] ** 2 + (near[None] - 0.2) ** 2)).expand(1, SLICES, SIZE, SIZE)
    y = operator(x)
    assert y.shape[:3] == (1, SLICES, 1)
    # Each view of each sinogram holds the whole mass of the slice.
    mass = y.sum(-2)[0, :, 0], ours(x).sum(-1)[0]
    torch.testing.assert_close(*mass, rtol=0.01, atol=0)
    assert dot_test(operator, x, y) < 1e-5
    assert operator.norm == pytest.approx(spectral_norm(operator, x), rel=1e-5)


@beside
def test_mri_of_deepinv_is_that_of_here() -> None:
    physics = pytest.importorskip("deepinv.physics")
    mask = (torch.arange(SIZE) % 3 == 0).float().expand(1, 1, SIZE, SIZE).contiguous()
    operator = from_deepinv(physics.MRI(mask=mask, img_size=(SIZE, SIZE)), (SLICES, 2, SIZE, SIZE))
    ours, x = CartesianMRI(mask[0, 0]), volume(SLICES, 2, SIZE, SIZE)
    torch.testing.assert_close(operator(x), ours(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(operator.adjoint(ours(x)), ours.adjoint(ours(x)), rtol=0, atol=1e-5)


@beside
def test_an_operator_of_here_passes_the_tests_of_deepinv() -> None:
    pytest.importorskip("deepinv")
    grid = Grid(SIZE, SIZE)
    ours = Tomography(grid, ParallelBeam.covering(grid, evenly(6)))
    theirs, x = to_deepinv(ours), volume(SLICES, SIZE, SIZE)
    y = theirs(x)
    assert torch.equal(y, ours(x))
    assert torch.equal(theirs.A_adjoint(y), ours.adjoint(y))
    assert abs(float(theirs.adjointness_test(x))) < 1e-5 * float((y * y).sum())
    found = float(theirs.compute_norm(x, max_iter=50, tol=1e-6, verbose=False))
    assert found == pytest.approx(ours.norm**2, rel=0.01)
    # Its solvers work on it: the pseudo-inverse explains the measurement.
    assert float((theirs.A(theirs.A_dagger(y)) - y).norm() / y.norm()) < 0.01
    noisy = to_deepinv(ours, sigma=0.5)(x)
    assert float((noisy - y).std()) == pytest.approx(0.5, rel=0.05)


@beside
def test_there_and_back_is_the_same_operator() -> None:
    pytest.importorskip("deepinv")
    grid = Grid(SIZE, SIZE)
    ours = Tomography(grid, ParallelBeam.covering(grid, evenly(6)))
    again, x = from_deepinv(to_deepinv(ours), (SLICES, SIZE, SIZE)), volume(SLICES, SIZE, SIZE)
    assert torch.equal(again(x).squeeze(2), ours(x))
    assert again.norm == pytest.approx(ours.norm, rel=1e-5)
