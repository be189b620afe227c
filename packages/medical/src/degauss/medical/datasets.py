"""Public volumes for training, tests and claims, found under `data_root()`; nothing is downloaded.

Each reader raises `InputError` where its file is not there, and says where it was looked for.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from degauss.core.errors import InputError
from degauss.core.places import data_root
from degauss.medical import dicom, nifti
from degauss.medical.volumes import Place, Volume

Contrast = Literal["T1", "T2", "FLAIR"]


def _present(name: str, what: str) -> Path:
    path = data_root() / "medical" / name
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected {what} there, so set DEGAUSS_DATA.")
    return path


def ct_torso() -> Volume:
    """A torso, 112 axial slices of 101 x 122 voxels at 3 mm, HU (TotalSegmentator; Apache-2.0)."""
    return nifti.read(_present("ct_torso.nii.gz", "the CT of a torso"), "HU")


def ct_chest() -> Volume:
    """A chest, 164 axial slices of 126 x 120 voxels at 1.5 mm, HU (TotalSegmentator; Apache-2.0)."""
    return nifti.read(_present("ct_chest.nii.gz", "the CT of a chest"), "HU")


def ct_brain_atlas() -> Volume:
    """An atlas of the brain in CT, 179 slices of 202 x 202 voxels at 1 mm, HU (TotalSegmentator; Apache-2.0).

    Cut out of the head: what is outside is 0 HU and not air.
    """
    return nifti.read(_present("ct_brain_atlas_1mm.nii.gz", "the CT atlas of a brain"), "HU")


def ct_head(spacing: float | None = None) -> Volume:
    """A head with a tilted gantry, 28 slices of 512 x 512 at 0.49 mm, 4 mm and 7 mm apart (dcm_qa_ct; BSD-2).

    Straightened and put at one spacing, mm: 4 unless given (see `dicom.read_resampled`).
    """
    return dicom.resampled(ct_head_slices(), 4.0 if spacing is None else spacing)


def ct_head_slices() -> list[dicom.Slice]:
    """The slices of `ct_head` as the scanner made them."""
    path = _present("ct_head_dicom.tar.xz", "the DICOM slices of a head")
    found: list[dicom.Slice] = []
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                found.append(dicom.read_slice(io.BytesIO(file.read()), Path(member.name).name))
    return found


def head_t1() -> Volume:
    """A head with electrodes in T1, 160 slices of 232 x 160 voxels (VolumeRenderingData; MIT)."""
    return nifti.read(_present("head_T1_electrodes.nii.gz", "the T1 image of a head"), "arbitrary")


def stroke(contrast: Contrast) -> Volume:
    """A head in one of three contrasts on one oblique grid of 1 mm (VolumeRenderingData; MIT)."""
    return nifti.read(_present(f"stroke_{contrast}.nii.gz", f"the {contrast} image of a head"), "arbitrary")


def oasis_t1() -> Volume:
    """A brain in T1, cut out, 192 slices of 224 x 160 voxels at 1 mm, from 0 to 1 (OASIS, in voxelmorph; Apache-2.0).

    Its file has no header. Foot and front are taken from the anatomy, left from FreeSurfer's custom.
    """
    path = _present("oasis_t1_test_scan.npz", "the T1 image of a brain")
    with np.load(path, allow_pickle=False) as arrays:
        stored = torch.from_numpy(arrays["vol"].astype(np.float32))
    towards_left_foot_front = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    return Volume.at(stored, "arbitrary", Place.of(towards_left_foot_front, (160, 192, 224)))


def brain_kspace() -> Tensor:
    """The measured k-space of a slice of a brain: complex64 ``[8 coils, 230 rows, 180 columns]`` (BSD-3).

    From the sigpy-mri-tutorial. It was measured with an acceleration of 8: 12.4 % of its samples, a Poisson disc around
    a full middle of 24 x 24, and zeros elsewhere; so no full image is known. `scans.from_kspace` makes a scan of it.
    """
    return torch.from_numpy(np.load(_present("brain_8coil_cartesian_ksp.npy", "the k-space of a brain")))


def mni_t1() -> Volume:
    """The template ICBM152 in T1, 1 mm, from the package nilearn, where that is installed (MNI; free use)."""
    try:
        import nilearn  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError("The MNI template comes with nilearn, which is not installed.") from None
    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    path = Path(str(nilearn.__file__)).parent / "datasets" / "data" / name
    if not path.is_file():
        raise InputError(f"{path}: does not exist; expected the MNI template there, as in nilearn 0.14.")
    return nifti.read(path, "arbitrary")
