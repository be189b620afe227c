"""Options that `speak` and `sing` share, and what they turn into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from degauss.core.errors import InputError, check_range
from degauss.core.options import check_file, device_of
from degauss.core.solvers import SolverName

if TYPE_CHECKING:
    from torch import Tensor

    from degauss.audio.acoustic import AcousticModel
    from degauss.audio.synthesis import Sampling
    from degauss.audio.vocoders import Vocoder
    from degauss.audio.waves import Wave

WEIGHTS = Path(__file__).parents[1] / "weights"
_SOUNDS = (".wav", ".flac", ".ogg")


class Opened(NamedTuple):
    """A model on its device, its vocoder and how it is sampled, and the hash of its checkpoint."""

    model: AcousticModel
    vocoder: Vocoder
    sampling: Sampling
    sha256: str


@dataclass(frozen=True, kw_only=True)
class VoiceOptions:
    """Which model, which vocoder, and how mels are drawn."""

    checkpoint: Path | None = None
    """A model that 'train' wrote; the one that ships with the package unless given."""
    vocoder: str | None = None
    """neural, world, griffin-lim, or the folder of a trained one; neural where it ships and fits, else world."""
    voice: str | None = None
    """Who is heard, where the model has several voices."""
    solver: SolverName | None = None
    """How the reverse process is solved; what the checkpoint says unless given, else dpmpp."""
    steps: int | None = None
    """Steps of the solver; what the checkpoint says unless given, else 12."""
    k: str | None = None
    """Where it starts: a step K of 0 to 100 (71, or 100 for noise alone), or 'auto' for one by utterance, of a
    checkpoint that 'fit-boundary' was run on; what the checkpoint says unless given, else 60."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    def opened(self, default: str, rate: float = 1.0) -> Opened:
        """What the options ask for; ``default``: the folder in the package's weights that is used without a name."""
        from degauss.audio.acoustic import AcousticModel
        from degauss.audio.synthesis import Sampling
        from degauss.core.files import fingerprint

        device = device_of(self.device)
        checkpoint = self.checkpoint or WEIGHTS / default
        model = AcousticModel.load(checkpoint)
        model.network.to(device)
        sampling = Sampling(self.solver, self.steps, self._boundary(checkpoint, model), self.seed, rate)
        return Opened(model, self._vocoder(model), sampling, fingerprint(checkpoint))

    def _boundary(self, checkpoint: Path, model: AcousticModel) -> Any:
        if self.k is None:
            return None
        if self.k == "auto":
            from degauss.audio.boundary_fitting import load_boundary

            return load_boundary(checkpoint).adaptive(model)
        try:
            k = float(self.k)
        except ValueError:
            raise InputError(f"k is {self.k!r}; expected a step of 0 to {model.config.steps}, or 'auto'.") from None
        check_range("k", k, 0, model.config.steps)
        return k / model.config.steps

    def _vocoder(self, model: AcousticModel) -> Vocoder:
        from degauss.audio.vocoders import SHIPPED, open_vocoder

        if self.vocoder is not None:
            return open_vocoder(self.vocoder, model.config.mel)
        if SHIPPED.is_dir():
            try:
                return open_vocoder("neural", model.config.mel)
            except InputError:  # it takes other mels than this model makes
                pass
        return open_vocoder("world", model.config.mel)


def beside(out: Path, suffix: str) -> Path:
    """The file of another kind that goes with a sound."""
    return out.with_suffix(suffix)


def check_sound(out: Path) -> None:
    """`InputError` unless a sound can be written there."""
    check_file(out, _SOUNDS)


def write_sound(
    out: Path, wave: Wave, f0: Tensor, opened: Opened, report: dict[str, Any], title: str, picture: bool
) -> None:
    """A sound, its picture and last, as the sign that all is there, its JSON, each whole or absent."""
    from degauss.audio.plots import sound_picture
    from degauss.audio.waves import write
    from degauss.core.cli import provenance
    from degauss.core.files import atomic_path, write_json

    write(out, wave)
    if picture:
        sound_picture(beside(out, ".png"), wave, opened.model.config.mel, f0, title)
    about = {**report, "vocoder": type(opened.vocoder).__name__, "checkpoint_sha256": opened.sha256, **provenance()}
    with atomic_path(beside(out, ".json")) as part:
        write_json(part, about)
