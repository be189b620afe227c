"""The command simulate: each kind of scan, the same bytes for the same seed, and one sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.medical import datasets
from degauss.medical.acquisition import CartesianGeometry, CTGeometry
from degauss.medical.geometry import FanBeam, ParallelBeam
from degauss.medical.mri import even_lines
from degauss.medical.scans import Scan, read_scan

from .conftest import SliceMaker, affine_of

Answer = tuple[int, str, str]
Invoke = Callable[[Sequence[str | Path]], Answer]
Refusal = Callable[[Callable[[], Answer]], str]


@pytest.fixture
def volume(here: Path) -> Path:
    """A body in Hounsfield units, 24 x 20 x 12 voxels as stored, slices 4 mm apart."""
    i, j, k = np.meshgrid(np.arange(24), np.arange(20), np.arange(12), indexing="ij")
    inside = ((i - 11) / 9) ** 2 + ((j - 10) / 7) ** 2 < 1
    data = np.where(inside, 30.0 + 5 * k, -1000.0).astype(np.float32)
    nibabel.Nifti1Image(data, affine_of((0, 1, 2, -1, -1, 1), (1.0, 1.5, 4.0))).to_filename(here / "ct.nii.gz")
    return here / "ct.nii.gz"


@pytest.fixture
def image(here: Path) -> Path:
    """A magnitude image of 4 slices, 16 rows and 20 columns."""
    data = np.zeros((4, 16, 20), np.float32)
    data[:, 3:13, 4:16] = 100
    np.savez(here / "mr.npz", data=data, spacing=np.array([3.0, 1.0, 1.0]))
    return here / "mr.npz"


def made(invoke: Invoke, words: Sequence[str | Path]) -> Scan:
    status, out, error = invoke(["simulate", *words])
    assert (status, error) == (0, "")
    assert out.startswith("wrote scan.h5: ")
    assert out.count("\n") == 1
    return read_scan(Path("scan.h5"))


def test_sparse_views_are_the_default(volume: Path, invoke: Invoke) -> None:
    scan = made(invoke, [volume])
    assert isinstance(scan.geometry, CTGeometry)
    assert isinstance(scan.geometry.beam, ParallelBeam)
    assert scan.geometry.beam.angles == tuple(22.5 * i for i in range(8))
    assert (scan.modality, scan.shape, scan.spacing) == ("ct", (12, 20, 24), (4.0, 1.5, 1.0))
    assert (scan.sigma, scan.photons, scan.truth) == (0, None, None)


def test_each_option_of_ct_does_what_it_says(volume: Path, invoke: Invoke) -> None:
    limited = made(invoke, [volume, "--views", "6", "--arc", "90", "--sigma", "0.01", "--keep-truth"])
    assert isinstance(limited.geometry, CTGeometry)
    assert limited.geometry.beam.angles == (0, 15, 30, 45, 60, 75)
    assert limited.sigma == 0.01
    assert limited.truth is not None
    residual = limited.y - limited.operator()(limited.full * limited.truth[None])[0]
    assert float(residual.std()) == pytest.approx(0.01, rel=0.05)
    fan = made(invoke, [volume, "--fan", "--views", "4", "--photons", "1e5"])
    assert isinstance(fan.geometry, CTGeometry)
    assert isinstance(fan.geometry.beam, FanBeam)
    assert fan.geometry.beam.angles == (0, 90, 180, 270)
    assert (fan.geometry.beam.source_to_axis, fan.geometry.beam.source_to_detector) == (570, 1040)
    assert fan.photons == 1e5
    assert 0.003 < fan.sigma < 0.006  # 1 / sqrt(photons) in air, more through the body


def test_resampling_keeps_the_field_of_view_and_its_place(volume: Path, invoke: Invoke) -> None:
    whole = made(invoke, [volume])
    scan = made(invoke, [volume, "--size", "10", "--slice-spacing", "3", "--slices", "2:6", "--keep-truth"])
    assert scan.shape == (4, 10, 10)
    assert scan.spacing == pytest.approx((3, 3, 3))  # 20 rows of 1.5 mm are wider than 24 columns of 1 mm
    resampled = made(invoke, [volume, "--size", "10", "--slice-spacing", "3"])
    middles = [
        one.place.axial_affine() @ [*((np.array(one.place.data_shape) - 1) / 2), 1] for one in (whole, resampled)
    ]
    np.testing.assert_allclose(middles[0], middles[1], atol=1e-5)
    assert scan.truth is not None
    middle = scan.volume(scan.truth).data[:, 5, 5]
    assert bool((middle.diff() > 2).all())  # 5 HU a slice of 4 mm
    assert scan.place.nifti is not None


def test_mri_measures_lines_of_kspace(image: Path, invoke: Invoke) -> None:
    scan = made(invoke, [image, "--mri", "--acceleration", "2", "--centre", "0.2", "--keep-truth", "--sigma", "0.01"])
    assert isinstance(scan.geometry, CartesianGeometry)
    assert (scan.modality, scan.shape, scan.full) == ("mr", (4, 16, 20), 100)
    assert scan.geometry.real
    assert int(scan.geometry.mask.sum()) == 10
    assert bool(scan.geometry.mask[8:12].all())
    assert scan.sigma == pytest.approx(1.0)
    assert scan.truth is not None
    residual = scan.y - scan.operator()(scan.full * scan.truth[None])[0]
    assert float(residual[..., scan.geometry.mask != 0].std()) == pytest.approx(1.0, rel=0.1)
    even = made(invoke, [image, "--mri", "--lines", "even", "--phase", "0.5", "--acceleration", "2.5"])
    assert isinstance(even.geometry, CartesianGeometry)
    assert torch.equal(even.geometry.mask, even_lines(20, 2.5, 0.08))
    assert even.shape == (4, 2, 16, 20)


@pytest.mark.parametrize("how", [["--photons", "1e3"], ["--mri", "--sigma", "0.1", "--phase", "1"]])
def test_the_same_seed_gives_the_same_file(how: list[str], volume: Path, image: Path, invoke: Invoke) -> None:
    source = image if "--mri" in how else volume
    files: list[bytes] = []
    for seed in ("0", "0", "1"):
        made(invoke, [source, *how, "--seed", seed])
        files.append(Path("scan.h5").read_bytes())
    assert files[0] == files[1] != files[2]


def test_tilted_slices_are_straightened_only_if_asked(
    series: SliceMaker, here: Path, invoke: Invoke, refusal: Refusal
) -> None:
    folder = series(np.full((6, 16, 16), 1034, np.uint16), step=(0, 0.5, 2))
    assert "tilted" in refusal(lambda: invoke(["simulate", folder]))
    scan = made(invoke, [folder, "--straighten", "2"])
    assert scan.modality == "ct"
    assert scan.spacing[0] == pytest.approx(2)


REFUSED: dict[str, tuple[list[str], str]] = {
    "no file": (["none.nii.gz"], "none.nii.gz: does not exist"),
    "not a volume": (["text.txt"], "text.txt: is not a volume; expected a file ending in .nii"),
    "flat": (["flat.npy"], "flat.npy: Expected a volume of three axes, but the shape is (8, 8)."),
    "four axes": (["four.npy"], "the shape is (2, 8, 8, 8)"),
    "not finite": (["nan.npy"], "3 of 512 voxels are not finite, the first at index (1, 2, 3)"),
    "saturated": (["saturated.npy"], "512 of 512 voxels are saturated at 255"),
    "no unit": (
        ["mr.npz"],
        "values, 0 to 100, have no unit: if they are, say so (--unit HU).",
    ),
    "mri of ct": (["ct.nii.gz", "--mri"], "MRI needs an image without Hounsfield units, but the volume is a CT."),
    "empty": (["zero.npy", "--mri"], "no voxel above 0"),
    "both noises": (["ct.nii.gz", "--photons", "1e4", "--sigma", "0.1"], "photons or a sigma"),
    "photons": (["ct.nii.gz", "--photons", "0"], "photons must be at least 1"),
    "sigma": (["ct.nii.gz", "--sigma", "-1"], "sigma must be at least 0"),
    "views": (["ct.nii.gz", "--views", "0"], "A scan needs views"),
    "arc": (["ct.nii.gz", "--arc", "400"], "up to 360 degrees"),
    "source": (["ct.nii.gz", "--fan", "--source-to-axis", "10"], "The source is 10 mm from the axis, inside a slice"),
    "size": (["ct.nii.gz", "--size", "2"], "size must be at least 8 pixels"),
    "spacing": (["ct.nii.gz", "--slice-spacing", "0"], "slice-spacing must be a length in mm above 0"),
    "slices": (["ct.nii.gz", "--slices", "a:b"], "slices must be two numbers such as 40:72, but is 'a:b'."),
    "range": (["ct.nii.gz", "--slices", "10:20"], "slices 0 to 12, so 10:20 are not in it"),
    "mri with arc": (["mr.npz", "--mri", "--arc", "90"], "--fan, --arc and --photons are of CT"),
    "acceleration": (["mr.npz", "--mri", "--acceleration", "0.5"], "acceleration must be between 1 and 20"),
    "centre": (["mr.npz", "--mri", "--centre", "0.9"], "The centre alone is 18 of 20 lines"),
    "suffix": (["ct.nii.gz", "--out", "scan.nii"], "scan.nii: expected a name that ends in .h5 or .hdf5."),
    "empty folder": (["."], "no DICOM image among"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_one_sentence(
    what: str, volume: Path, image: Path, here: Path, invoke: Invoke, refusal: Refusal
) -> None:
    (here / "text.txt").write_text("hello")
    bad = np.zeros((8, 8, 8), np.float32)
    np.save(here / "zero.npy", bad)
    bad[1, 2, 3:6] = np.nan
    np.save(here / "nan.npy", bad)
    np.save(here / "flat.npy", bad[0])
    np.save(here / "four.npy", np.zeros((2, 8, 8, 8)))
    np.save(here / "saturated.npy", np.full((8, 8, 8), 255, np.uint8))
    words, says = REFUSED[what]
    assert says in refusal(lambda: invoke(["simulate", *words]))


def test_a_real_torso_becomes_a_scan(here: Path, invoke: Invoke) -> None:
    try:
        torso = datasets.ct_torso()
    except InputError as error:
        pytest.skip(str(error))
    source = data_root() / "medical" / "ct_torso.nii.gz"
    scan = made(invoke, [source, "--size", "32", "--slices", "40:48", "--photons", "1e5", "--keep-truth"])
    assert scan.shape == (8, 32, 32)
    assert scan.spacing[1] == pytest.approx(torso.data.shape[2] * 3 / 32)
    assert scan.truth is not None
    assert 0.3 < float(scan.truth[:, 12:20, 12:20].median()) < 0.6  # soft tissue is near 0.5


def test_every_other_reader_finds_its_volume() -> None:
    for reader, shape in ((datasets.ct_chest, (164, 126, 120)), (datasets.oasis_t1, (192, 224, 160))):
        try:
            volume = reader()
        except InputError as error:
            pytest.skip(str(error))
        assert tuple(volume.data.shape) == shape
    brain = datasets.oasis_t1().data
    # The cerebellum is low and at the back; the widest part of the head is above the middle of what there is.
    assert float(brain[30:60, 150:200].mean()) > float(brain[30:60, 30:80].mean())
