"""What may be written of what was read: a list of what is allowed, and everything else stays behind.

**NIfTI**: the voxels and the fields of `volumes.Nifti`. **Scans**: numbers only (see `scans`). **DICOM**: how the image
was acquired, as numbers and as words from short lists; no text that a person typed, no dates, no private fields, and no
identifiers of the standard. Who the patient is goes into a derived series only if a person asks for it by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ACQUISITION = (
    "KVP",
    "XRayTubeCurrent",
    "ExposureTime",
    "Exposure",
    "GeneratorPower",
    "FocalSpots",
    "DataCollectionDiameter",
    "ReconstructionDiameter",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "NumberOfAverages",
    "PixelBandwidth",
    "WindowCenter",
    "WindowWidth",
)
"""Attributes of DICOM that may be copied where they are numbers."""

WORDS: Mapping[str, frozenset[str]] = {
    "PatientPosition": frozenset({"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"}),
    "RotationDirection": frozenset({"CW", "CC"}),
    "MRAcquisitionType": frozenset({"1D", "2D", "3D"}),
    "ScanningSequence": frozenset({"SE", "IR", "GR", "EP", "RM"}),
    "SequenceVariant": frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"}),
}
"""Attributes that may be copied where they are one of these words."""

IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "FrameOfReferenceUID",
)
"""What ties a series to a patient and a study: copied only where identifiers are to be kept."""


def copied(source: Any, *, keep_patient: bool) -> dict[str, Any]:
    """The attributes of a DICOM data set that may be written, by keyword."""
    found = {name: source.get(name) for name in ACQUISITION if _is_numbers(source.get(name))}
    for name, allowed in WORDS.items():
        value = source.get(name)
        if value is not None and {str(word) for word in _several(value)} <= allowed:
            found[name] = value
    if keep_patient:
        found |= {name: source.get(name) for name in IDENTIFIERS if source.get(name) not in (None, "")}
    return found


def _is_numbers(value: Any) -> bool:
    try:
        return value is not None and all(math.isfinite(float(number)) for number in _several(value))
    except (TypeError, ValueError):
        return False


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
