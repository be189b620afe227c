"""Scans: kept whole, in units where the operator has norm 1, and refused where they disagree with themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.inverse import ConjugateGradient, Normalised, dot_test, least_squares, spectral_norm
from degauss.core.noise import Noise
from degauss.medical import datasets
from degauss.medical.acquisition import CartesianGeometry, RadialGeometry
from degauss.medical.files import read_volume, write_volume
from degauss.medical.geometry import FanBeam, Grid, ParallelBeam, evenly
from degauss.medical.mri import even_lines, fourier
from degauss.medical.radial import golden_angles
from degauss.medical.scans import Scan, from_kspace, read_scan, write_scan
from degauss.medical.simulation import simulate_ct, simulate_mri, simulate_radial, smooth_field
from degauss.medical.volumes import CT_FULL, Volume, prior_units

from .conftest import affine_of
from .test_nifti import written

SPACING = (3.0, 1.5, 1.25)


def body(unit: Any = "HU") -> Volume:
    """A round body of 5 slices, 24 rows and 20 columns with a bright part."""
    z, y, x = torch.meshgrid(torch.arange(5.0), torch.arange(24.0), torch.arange(20.0), indexing="ij")
    inside = ((y - 12) / 9) ** 2 + ((x - 10) / 7) ** 2 < 1
    bright = ((y - 9) ** 2 + (x - 8) ** 2 < 6) & (z > 1)
    data = inside * 100.0 + bright * 60.0
    return Volume.upright(10 * data - 1000 if unit == "HU" else data, SPACING, unit)


def ct(**noise: Any) -> Scan:
    volume = body()
    grid = Grid(24, 20, SPACING[1:])
    return simulate_ct(volume, ParallelBeam.covering(grid, evenly(9)), truth=True, **noise)


def fan() -> Scan:
    grid = Grid(24, 20, SPACING[1:])
    return simulate_ct(body(), FanBeam.covering(grid, evenly(7, 360), 300.0, 500.0), sigma=0.01)


def mri(**more: Any) -> Scan:
    return simulate_mri(body("arbitrary"), even_lines(20, 2, 0.2), truth=True, **more)


def radial(**more: Any) -> Scan:
    pytest.importorskip("finufft", reason="radial scans need finufft")
    return simulate_radial(body("arbitrary"), golden_angles(7), 30, truth=True, **more)


def radial_coils() -> Scan:
    """Two spokes through two slices, which three coils see each in its own way."""
    pytest.importorskip("finufft", reason="radial scans need finufft")
    maps = Noise(0, range(2)).normal(torch.empty(2, 3, 2, 8, 6)).movedim(-3, -1).contiguous()
    geometry = RadialGeometry((8, 6), (0.0, 70.0), 16, torch.view_as_complex(maps))
    place = Volume.upright(torch.zeros(2, 8, 6), SPACING).place
    x = Noise(1, range(2)).normal(torch.empty(2, 2, 8, 6))
    y = geometry.operator()(x[None])[0]
    return Scan(y, geometry, 0.0, None, 1.0, "arbitrary", 2, place, place.spacing, x)


def coils(slices: int = 2, rows: int = 32, columns: int = 28) -> tuple[Tensor, Tensor]:
    """Fully measured k-space of a smooth object with three smooth coils, and the object."""
    y = torch.linspace(-1, 1, rows)[:, None]
    x = torch.linspace(-1, 1, columns)
    image = torch.exp(-4 * (y**2 + x**2)) * (1 + torch.arange(1.0, slices + 1))[:, None, None]
    maps = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 4) for a, b in ((-1, 0), (1, 1), (0, -1))])
    return fourier((image[:, None] * maps).to(torch.complex64)), image * maps.square().sum(0).sqrt()


MAKERS: dict[str, Callable[[], Scan]] = {
    "parallel": ct,
    "photons": lambda: ct(photons=1e4),
    "fan": fan,
    "real": mri,
    "complex": lambda: mri(phase=0.5, sigma=0.01),
    "coils": lambda: from_kspace(coils()[0], even_lines(28, 2, 0.5), centre=(12, 12), spacing=SPACING),
    "spokes": radial,
    "complex spokes": lambda: radial(phase=0.5, sigma=0.02),
    "spokes of coils": radial_coils,
    "one slice": lambda: from_kspace(coils(1)[0][0], centre=(12, 12), sigma=0.0),
}


def same(a: Scan, b: Scan) -> None:
    assert torch.equal(a.y, b.y)
    assert (a.sigma, a.photons, a.full, a.unit, a.slices, a.spacing) == (
        *(b.sigma, b.photons, b.full, b.unit, b.slices, b.spacing),
    )
    assert a.place.affine.tobytes() == b.place.affine.tobytes()
    assert (a.place.order, a.place.flipped, a.place.nifti) == (b.place.order, b.place.flipped, b.place.nifti)
    assert (a.truth is None) == (b.truth is None)
    if a.truth is not None and b.truth is not None:
        assert torch.equal(a.truth, b.truth)
    assert type(a.geometry) is type(b.geometry)
    assert a.geometry.about == b.geometry.about
    assert a.geometry.facts == b.geometry.facts
    ours, theirs = a.geometry.arrays, b.geometry.arrays
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        other = theirs[name]
        assert (array is None) == (other is None)
        if array is not None and other is not None:
            assert torch.equal(array, other)


# --- units --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_a_measurement_has_norm_one_and_explains_the_truth(kind: str) -> None:
    scan = MAKERS[kind]()
    measurement = scan.measurement(slab=2)
    like = torch.zeros(1, *scan.shape)
    assert spectral_norm(measurement.operator, like) == pytest.approx(1, abs=2e-3)
    assert dot_test(measurement.operator, like, measurement.y) < 1e-6
    raw, unit = scan.operator(), measurement.operator
    assert isinstance(unit, Normalised)
    weights = 1 if scan.geometry.weights is None else scan.geometry.weights
    x = Noise(0, range(1)).uniform(like)
    scale = scan.full * unit.raw_norm
    expected = weights * raw(scan.full * x)
    torch.testing.assert_close(unit(x) * scale, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    y, sigma = scan.weighed
    torch.testing.assert_close(y, weights * scan.y)
    assert measurement.sigma_y == pytest.approx(sigma / scale)
    if scan.truth is not None and kind != "coils":
        residual = measurement.residual(scan.truth[None]) * scale
        if scan.sigma:
            part = residual[..., scan.geometry.measured.expand(residual.shape[-2:]) != 0]
            assert float(part.square().mean().sqrt()) == pytest.approx(sigma, rel=0.1)
        elif kind != "one slice":
            assert float(residual.abs().max()) < 1e-4 * float(y.abs().max())


@pytest.mark.parametrize("kind", ["parallel", "real"])
def test_the_truth_is_the_volume_again(kind: str) -> None:
    scan, volume = MAKERS[kind](), body("HU" if kind == "parallel" else "arbitrary")
    assert scan.truth is not None
    again = scan.volume(scan.truth)
    torch.testing.assert_close(again.data, volume.data, atol=1e-3, rtol=1e-5)
    assert (again.unit, again.spacing) == (volume.unit, volume.spacing)
    more = scan.volume(scan.truth + 0.1)
    torch.testing.assert_close(
        more.data - again.data, scan.deviations(torch.full(scan.truth.shape, 0.1)).data, atol=1e-3, rtol=1e-4
    )


def test_a_complex_image_becomes_its_magnitude() -> None:
    scan = mri(phase=1.0)
    assert scan.shape == (5, 2, 24, 20)
    assert scan.truth is not None
    torch.testing.assert_close(scan.volume(scan.truth).data, body("arbitrary").data, atol=1e-3, rtol=1e-4)
    assert float(scan.truth[:, 1].abs().max()) > 0.3
    field = smooth_field(40, 30, Noise(1, range(1)))
    assert float(field.mean()) == pytest.approx(0, abs=1e-5)
    assert float(field.std()) == pytest.approx(1, rel=1e-5)
    assert float(field.diff(dim=0).abs().max()) < 0.6


def test_photons_make_the_noise_they_say() -> None:
    few, clean = ct(photons=500.0, seed=1), ct()
    found = float((few.y - clean.y).square().mean().sqrt())
    assert few.sigma == pytest.approx(found, rel=0.1)
    assert few.sigma > ct(photons=5000.0).sigma > 0
    assert torch.equal(few.y, ct(photons=500.0, seed=1).y)
    assert not torch.equal(few.y, ct(photons=500.0, seed=2).y)


def test_noise_of_a_slice_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ct(photons=1e3)
    monkeypatch.setattr("degauss.medical.simulation._SLAB", 2)
    assert torch.equal(whole.y, ct(photons=1e3).y)


# --- k-space ------------------------------------------------------------------------------------------------


def test_a_full_kspace_gives_its_least_squares_image() -> None:
    kspace, image = coils()
    scan = from_kspace(kspace, even_lines(28, 2, 0.5), centre=(14, 14))
    assert scan.shape == (2, 2, 32, 28)
    assert scan.truth is not None
    magnitude = scan.magnitude(scan.truth) * scan.full
    inside = image > 0.2 * image.max()
    torch.testing.assert_close(magnitude[inside], image[inside], rtol=0.02, atol=0)
    full = from_kspace(kspace, centre=(14, 14))
    start = torch.zeros(1, *full.shape)
    solved = least_squares(full.measurement(), start, ConjugateGradient(30))[0] * full.full
    assert full.truth is not None
    torch.testing.assert_close(solved, full.truth * full.full, atol=1e-4, rtol=1e-3)
    assert float(scan.measurement().residual(scan.truth[None]).abs().mean()) < 0.05


def test_kspace_that_was_accelerated_when_measured_has_no_truth() -> None:
    kspace, _ = coils(1)
    mask = even_lines(28, 2, 0.5)
    scan = from_kspace((kspace * mask)[0], centre=(12, 12))
    assert scan.truth is None
    assert isinstance(scan.geometry, CartesianGeometry)
    assert torch.equal(scan.geometry.mask, mask.expand(32, 28))
    with pytest.raises(InputError, match=r"middle 30 x 26 of k-space must be measured .* ask for a smaller centre"):
        from_kspace((kspace * mask)[0], centre=(30, 26))
    with pytest.raises(InputError, match="does not fit into a k-space"):
        from_kspace(kspace, centre=(99, 3))
    with pytest.raises(InputError, match=r"must be finite complex numbers .* but is torch.float32 \(4, 4\)"):
        from_kspace(torch.zeros(4, 4))


def test_the_deviation_of_noise_is_found_in_the_corners() -> None:
    kspace, _ = coils(1, 96, 96)
    noise = Noise(0, range(1))
    like = torch.empty(kspace.shape)
    noisy = kspace + 0.02 * torch.complex(noise.normal(like), noise.normal(like, draw=1))
    assert from_kspace(noisy, centre=(20, 20)).sigma == pytest.approx(0.02, rel=0.1)
    assert from_kspace(noisy, centre=(20, 20), sigma=0.3).sigma == 0.3


def test_the_measured_brain_is_a_scan() -> None:
    try:
        kspace = datasets.brain_kspace()
    except InputError as error:
        pytest.skip(str(error))
    scan = from_kspace(kspace)
    assert (scan.slices, scan.shape, tuple(scan.y.shape)) == (1, (1, 2, 230, 180), (1, 8, 2, 230, 180))
    assert isinstance(scan.geometry, CartesianGeometry)
    assert float(scan.geometry.mask.mean()) == pytest.approx(0.1243, abs=1e-4)  # it was measured so
    assert scan.truth is None
    assert 0 < scan.sigma < 0.05 * scan.full
    x = least_squares(scan.measurement(), torch.zeros(1, *scan.shape), ConjugateGradient(10))
    assert 0.5 < float(scan.magnitude(x).quantile(0.995)) < 2


# --- the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_a_scan_comes_back_whole(kind: str, tmp_path: Path) -> None:
    scan = MAKERS[kind]()
    for name in "ab":
        write_scan(tmp_path / f"{name}.h5", scan)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    same(scan, read_scan(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5") as file:
        arrays: Any = list(file.values())
        assert all(array.dtype.kind in "fc" for array in arrays)
        about: Any = dict(file.attrs)
    assert (about["format"], about["format_version"]) == ("degauss.medical/scan", 1)
    assert isinstance(json.loads(about["about"]), dict)


def test_the_place_of_a_nifti_file_survives_the_scan(tmp_path: Path) -> None:
    from degauss.medical import nifti

    source = written(tmp_path / "a.nii", affine_of((1, 2, 0, -1, 1, -1), degrees=(5, 3, 0)), (2, 1))
    volume = nifti.read(source)
    write_scan(tmp_path / "a.h5", simulate_mri(volume, torch.ones(volume.data.shape[2]), truth=True))
    scan = read_scan(tmp_path / "a.h5")
    assert scan.truth is not None
    nifti.write(tmp_path / "b.nii", scan.volume(scan.truth))
    again = nifti.read(tmp_path / "b.nii")
    assert again.place.nifti == volume.place.nifti
    assert again.place.affine.tobytes() == volume.place.affine.tobytes()
    x, full = prior_units(volume)
    torch.testing.assert_close(again.data, x * full)


def edited(path: Path, edit: Callable[[Any, dict[str, Any]], object]) -> Path:
    """A scan's file after an edit of it and of what it says about itself."""
    with h5py.File(path, "r+") as file:
        about = json.loads(str(file.attrs["about"]))
        edit(file, about)
        if "about" in file.attrs:
            file.attrs["about"] = json.dumps(about)
    return path


def put(file: Any, name: str, value: Any) -> None:
    if name in file:
        del file[name]
    file[name] = value


WRONG: dict[str, tuple[str, Callable[[Any, dict[str, Any]], object], str]] = {
    "bins": ("parallel", lambda f, a: a["geometry"]["beam"]["detector"].update(bins=7), r"y of shape \(5, 9, 7\)"),
    "views": ("parallel", lambda f, a: a["geometry"]["beam"].update(angles=[0.0, 9.0]), r"\(5, 2, \d+\).*but y is"),
    "slices": ("parallel", lambda f, a: a.update(slices=4), r"y of shape \(4, 9"),
    "pixels": (
        "parallel",
        lambda f, a: a["geometry"]["grid"].update(spacing=[1.5, 2.0]),
        r"grid's pixels are \(1\.5, 2\.0\) mm apart, but those of the volume \(1\.5, 1\.25\)",
    ),
    "rows": ("parallel", lambda f, a: a["geometry"]["grid"].update(rows=25), "for a truth of shape .*25, 20"),
    "place": ("fan", lambda f, a: a["geometry"]["grid"].update(rows=25), "the place is for"),
    "spacing": ("fan", lambda f, a: a.update(spacing=[4.0, 1.5, 1.25]), "spacing is .*but that of the place"),
    "affine": ("fan", lambda f, a: a["place"].update(affine=[0.0] * 16), "affine is singular"),
    "sigma": ("fan", lambda f, a: a.update(sigma=-1), "sigma must be a number of at least 0, but is -1"),
    "full": ("fan", lambda f, a: a.update(full=0), "full must be a number above 0"),
    "photons": ("fan", lambda f, a: a.update(photons=-5), "photons must be a number above 0"),
    "unit": ("real", lambda f, a: a.update(unit="HU"), "unit must be 'arbitrary' in MRI"),
    "no unit": ("fan", lambda f, a: a.pop("unit"), "unit must be 'HU' or 'arbitrary', but is None"),
    "kind": ("fan", lambda f, a: a["geometry"].update(kind="cone"), "geometry.kind must be .*'cone'"),
    "nan": ("fan", lambda f, a: f["y"].write_direct(np.full(f["y"].shape, np.nan, np.float32)), "y must be finite"),
    "no y": ("fan", lambda f, a: f.__delitem__("y"), "y must be an array in the file, but is missing"),
    "objects": ("fan", lambda f, a: put(f, "y", ["text"]), "y must be an array of real or complex numbers"),
    "group": ("fan", lambda f, a: f.__delitem__("y") or f.create_group("y"), "y must be an array of real"),
    "mask": ("real", lambda f, a: put(f, "mask", np.ones(19, np.float32)), r"mask is \(19,\), but k-space has"),
    "mask's values": ("real", lambda f, a: put(f, "mask", np.full(20, 0.5, np.float32)), "ones where it is measured"),
    "unseen": (
        "real",
        lambda f, a: put(f, "mask", np.eye(20, dtype=np.float32)[10]),
        "y has values in places of k-space that the mask says were not measured",
    ),
    "no mask": ("real", lambda f, a: f.__delitem__("mask"), "mask must be an array in the file"),
    "maps": (
        "coils",
        lambda f, a: put(f, "sensitivities", np.ones((3, 3, 32, 28), np.complex64)),
        r"sensitivities are \(3, 3, 32, 28\), but k-space has 2 slices",
    ),
    "coils": (
        "coils",
        lambda f, a: put(f, "sensitivities", np.ones((4, 32, 28), np.complex64)),
        r"y of shape \(2, 4, 2, 32, 28\)",
    ),
    "format": ("fan", lambda f, a: f.attrs.__setitem__("format", "other"), "its format is 'other'"),
    "newer": (
        "fan",
        lambda f, a: f.attrs.__setitem__("format_version", 9),
        "version is 9, and this Degauss reads",
    ),
    "no about": ("fan", lambda f, a: f.attrs.__delitem__("about"), "its format is"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_scan_that_disagrees_with_itself_is_refused(what: str, tmp_path: Path) -> None:
    kind, edit, says = WRONG[what]
    path = tmp_path / "a.h5"
    write_scan(path, MAKERS[kind]())
    with pytest.raises(InputError, match=says) as error:
        read_scan(edited(path, edit))
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert said.endswith(".")


def test_other_files_are_no_scans(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="does not exist; expected a scan"):
        read_scan(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be read as a scan"):
        read_scan(path)
    write_scan(path, ct())
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="cannot be read as a scan"):
        read_scan(path)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["y"] = np.zeros(3)
    with pytest.raises(InputError, match=r"its format is None, but 'degauss.medical/scan' was expected"):
        read_scan(tmp_path / "b.h5")


def test_a_truth_or_data_of_another_shape_is_refused() -> None:
    scan = ct()
    assert scan.truth is not None
    wrong = scan.truth.clone()
    wrong[0, 0, 0] = math.inf
    with pytest.raises(InputError, match="truth must be finite, but 1 of its 2400 values are not"):
        replace(scan, truth=wrong)
    with pytest.raises(InputError, match="for y of shape"):
        replace(scan, y=scan.y[None])


def test_units_that_do_not_fit_are_refused() -> None:
    grid = Grid(24, 20, SPACING[1:])
    beam = ParallelBeam.covering(grid, evenly(3))
    with pytest.raises(InputError, match="CT needs Hounsfield units, but the volume's values, 0 to 160, have no unit"):
        simulate_ct(body("arbitrary"), beam)
    with pytest.raises(InputError, match="that of photons or a sigma, but both"):
        simulate_ct(body(), beam, photons=1e4, sigma=0.1)
    with pytest.raises(InputError, match="the volume is a CT"):
        simulate_mri(body(), torch.ones(20))
    with pytest.raises(InputError, match="phase must be at least 0 radians"):
        mri(phase=-1)


def test_line_integrals_are_those_of_attenuation() -> None:
    scan = ct()
    assert scan.full == CT_FULL
    middle = float(scan.y[0, 0].max())  # through 18 rows of 0 HU, 1.5 mm each
    assert middle == pytest.approx(0.0193 * 17 * 1.5, rel=0.1)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    volume = body()
    write_volume(str(tmp_path / "a.npz"), volume)
    found = read_volume(str(tmp_path / "a.npz"))
    assert torch.equal(found.data, volume.data)
    grid = Grid(24, 20, volume.spacing[1:])
    scan = simulate_ct(volume, ParallelBeam.covering(grid, evenly(3)))
    write_scan(str(tmp_path / "a.h5"), scan)
    assert torch.equal(read_scan(str(tmp_path / "a.h5")).y, scan.y)
