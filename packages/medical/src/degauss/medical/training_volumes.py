"""The volumes of a folder that a prior is trained on, and what of them is held out.

With several volumes whole ones are held out, as neighbouring slices of one person look alike. With a single one it is
the slices nearest to the head, a gap away from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from degauss.core.errors import InputError
from degauss.core.train import Shuffle
from degauss.medical.acquisition import Modality
from degauss.medical.files import SUFFIXES, read_volume
from degauss.medical.slices import Source
from degauss.medical.volumes import Unit, Volume

_GAP = 4  # slices
_UNITS: dict[Modality, Unit] = {"ct": "HU", "mr": "arbitrary"}


@dataclass(frozen=True, eq=False)
class TrainingVolumes:
    """What is trained on and what is held out; of so many volumes."""

    training: tuple[Source, ...]
    held_out: tuple[Source, ...]
    volumes: int

    @property
    def view(self) -> tuple[float, float]:
        """Fields of view for them, mm: 0.8 of the smallest side to 1.25 of the largest."""
        sides = [
            max(n * step for n, step in zip(source.data.shape[1:], source.spacing, strict=True))
            for source in (*self.training, *self.held_out)
        ]
        return round(0.8 * min(sides), 1), round(1.25 * max(sides), 1)


def read_folder(
    folder: Path, modality: Modality, *, held_out: float = 0.2, seed: int = 0, straighten: float | None = None
) -> TrainingVolumes:
    """Volumes of a folder: its NIfTI files and arrays, the series of DICOM slices in folders of it, or one that it is.

    ``held_out``: the share that is, at least one volume. ``straighten``: see `read_volume`. Values of CT are taken for
    Hounsfield units. Raises InputError for a folder without volumes, and for one that cannot be used, naming it.
    """
    if not 0 < held_out < 1:
        raise InputError(f"the share to hold out must be between 0 and 1, but is {held_out}.")
    paths = volume_paths(folder)
    volumes = [_read(path, modality, straighten) for path in paths]
    sources = [_source(path, volume) for path, volume in zip(paths, volumes, strict=True)]
    if len(volumes) == 1:
        return TrainingVolumes(*_parted(paths[0], volumes[0], held_out), 1)
    count = min(len(sources) - 1, max(1, round(held_out * len(sources))))
    chosen = set(Shuffle(len(sources), seed)(range(count)).tolist())
    return TrainingVolumes(
        tuple(source for k, source in enumerate(sources) if k not in chosen),
        tuple(source for k, source in enumerate(sources) if k in chosen),
        len(volumes),
    )


def volume_paths(folder: Path) -> list[Path]:
    """The files and folders of volumes, sorted. Raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected one with volumes.")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in inside if path.is_dir() or path.name.lower().endswith(SUFFIXES)]
    if found:
        return found
    if any(path.is_file() for path in inside):
        return [folder]  # perhaps of DICOM slices, which have any name
    raise InputError(f"{folder}: holds no volumes; expected {', '.join(SUFFIXES)}, or folders of DICOM slices.")


def _read(path: Path, modality: Modality, straighten: float | None) -> Volume:
    volume = read_volume(path, unit=_UNITS[modality], straighten=straighten)
    if volume.unit != _UNITS[modality]:
        raise InputError(f"{path}: is in {volume.unit}, but a prior of {modality.upper()} needs {_UNITS[modality]}.")
    return volume


def _source(path: Path, volume: Volume) -> Source:
    try:
        return Source.of(volume)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _parted(path: Path, volume: Volume, held_out: float) -> tuple[tuple[Source], tuple[Source]]:
    """A volume's slices below and above."""
    count = len(volume.data)
    top = count - max(1, round(held_out * count))
    if top - _GAP < 1:
        raise InputError(f"{path}: has {count} slices; expected more, or more volumes, as some are held out.")
    return (_source(path, volume.cropped(range(top - _GAP))),), (_source(path, volume.cropped(range(top, count))),)
