r"""DiffSinger and DiffSpeech: an acoustic model in two parts, a smooth one that is sure and a noisy one that is sharp.

    batch --front end--> condition c --decoder--> auxiliary mel A(c)
                                    \--WaveNet--> denoiser of mels given c

The *auxiliary decoder* (FFT blocks, trained by the absolute error) gives a mel that is right on average and therefore
blurred. The *denoiser* has learnt all mels given c. Shallow diffusion (`degauss.audio.shallow`) starts the reverse
process at a time t_K < 1 from the noised auxiliary mel: less to do, and less to go wrong.

**Units.** Mels are in model units, each bin of log-mels mapped linearly to [-1, 1] by its least and greatest value in
the training data. The posterior mean of anything in that range lies in it, and is held there.

**Schedule.** The published path for T = 100 has betas evenly spaced from 1e-4 to 0.06; its end still holds the data
with a weight of alpha = 0.22, which a start from pure noise ignores. Here it is the same rate in continuous time,
`LinearVP` with beta from T 1e-4 to T 0.06, rescaled so that alpha(1) = 0 (Lin et al. 2024). So K on the published grid
means the same noise but for the last few steps, sampling from noise is right where shallow diffusion is not wanted,
and a smooth path lets solvers of higher order keep it. At alpha = 0 nothing can be read off a predicted noise, so the
network predicts v (Salimans and Ho 2022) or x0.

Reference: Liu et al. 2022, "DiffSinger: Singing Voice Synthesis via Shallow Diffusion Mechanism" (AAAI).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from degauss.audio.frontend import Batch, FFTStack, Frontend, FrontendConfig
from degauss.audio.spectra import MelConfig
from degauss.audio.wavenet import WaveNet, WaveNetConfig
from degauss.core.checkpoint import load_frozen, save_model
from degauss.core.denoiser import X0, Denoiser, NetworkDenoiser, V
from degauss.core.errors import InputError, check_option, check_range, near_miss
from degauss.core.posterior import Point
from degauss.core.schedule import LinearVP, Schedule, ZeroTerminalSNR

KIND = "degauss.audio/acoustic"
BOUNDARY_FILES = ("boundary.json", "boundary.safetensors")
"""What `degauss.audio.boundary_fitting` puts beside a model."""

# A bin that hardly varies is not magnified.
_NARROWEST = 1e-2

Prediction = Literal["v", "x0"]


@dataclass(frozen=True)
class AcousticConfig:
    """What an acoustic model is. The defaults run on a CPU; `PAPER` has the published sizes.

    ``phones``, ``voices``: names, in the order of their numbers (phones are numbered from 1). ``hidden`` to
    ``dropout``: the front end and the auxiliary decoder, see `FrontendConfig`. ``channels``, ``layers``, ``cycle``: the
    denoiser, see `WaveNetConfig`. ``steps``, ``beta_first``, ``beta_last``: T and the betas of the published schedule.
    """

    phones: tuple[str, ...]
    voices: tuple[str, ...] = ("voice",)
    mel: MelConfig = field(default_factory=MelConfig)
    hidden: int = 128
    blocks: int = 3
    heads: int = 2
    kernel: int = 9
    expansion: int = 2
    dropout: float = 0.1
    channels: int = 128
    layers: int = 10
    cycle: int = 1
    prediction: Prediction = "v"
    steps: int = 100
    beta_first: float = 1e-4
    beta_last: float = 0.06

    def __post_init__(self) -> None:
        for name in ("phones", "voices"):
            names = tuple(getattr(self, name))
            object.__setattr__(self, name, names)
            if not names or len(set(names)) < len(names):
                raise InputError(f"{name} must be names that differ, at least one, but are {names}.")
        check_option("prediction", self.prediction, ("v", "x0"))
        check_range("steps", self.steps, 1)
        if not 0 < self.beta_first <= self.beta_last < 1:
            raise InputError(f"betas must rise inside (0, 1), but go from {self.beta_first} to {self.beta_last}.")
        _ = self.frontend, self.denoiser

    @property
    def frontend(self) -> FrontendConfig:
        return FrontendConfig(
            phones=len(self.phones),
            voices=len(self.voices),
            hidden=self.hidden,
            blocks=self.blocks,
            heads=self.heads,
            kernel=self.kernel,
            expansion=self.expansion,
            dropout=self.dropout,
        )

    @property
    def denoiser(self) -> WaveNetConfig:
        return WaveNetConfig(self.mel.n_mels, self.hidden, self.channels, self.layers, self.cycle, self.steps)

    @property
    def schedule(self) -> Schedule:
        return _schedule(self.steps * self.beta_first, self.steps * self.beta_last)


PAPER: Mapping[str, Any] = {"hidden": 256, "blocks": 4, "expansion": 4, "channels": 256, "layers": 20}
"""The published sizes, for `AcousticConfig`."""


@lru_cache(maxsize=8)
def _schedule(first: float, last: float) -> Schedule:
    # One object per path, so that tables of solvers made for it are found again.
    return ZeroTerminalSNR(LinearVP(first, last))


# --- the network --------------------------------------------------------------------------------------------


class Statistics(NamedTuple):
    """What a model takes from its training data: ``low``, ``high`` ``[mels]``, the range of each bin of log-mels, and
    ``voice_pitch`` ``[voices]``, the mean pitch of each voice as a MIDI number.
    """

    low: Tensor
    high: Tensor
    voice_pitch: Tensor


class MelScale(nn.Module):
    """Log-mels ``[..., mels, n]`` to model units, and back."""

    low: Tensor
    width: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.float()[:, None])
        self.register_buffer("width", (high - low).clamp(min=_NARROWEST).float()[:, None])

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mels to [-1, 1]; what lies beyond the training data's range is cut off there."""
        return (2 * (mel - self.low) / self.width - 1).clamp(-1, 1)

    def inverse(self, x: Tensor) -> Tensor:
        """Model units to log-mels."""
        return (x + 1) / 2 * self.width + self.low


class Decoder(nn.Module):
    """The auxiliary decoder: ``condition [b, hidden, n] -> [b, mels, n]`` in model units, zero beyond the end."""

    def __init__(self, config: FrontendConfig, mels: int) -> None:
        super().__init__()
        self.stack = FFTStack(config)
        self.out = nn.Linear(config.hidden, mels)

    def forward(self, condition: Tensor) -> Tensor:
        inside = frames_of(condition)
        return (self.out(self.stack(condition.mT, inside)) * inside[..., None]).mT


class AcousticNet(nn.Module):
    """The parts of a model; what is done with them is said by `AcousticModel` and by the stages of training."""

    def __init__(self, config: AcousticConfig, statistics: Statistics) -> None:
        super().__init__()
        self.scale = MelScale(statistics.low, statistics.high)
        self.frontend = Frontend(config.frontend, statistics.voice_pitch)
        self.decoder = Decoder(config.frontend, config.mel.n_mels)
        self.wavenet = WaveNet(config.denoiser)


def frames_of(condition: Tensor) -> Tensor:
    """1 on the frames of each row of a condition ``[b, hidden, n]``, 0 on its padding, which is zero: ``[b, n]``."""
    return (condition != 0).any(1).to(condition.dtype)


# --- the model ----------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """The lowest and the highest pitch of a voice in the training data, as MIDI numbers."""

    low: float
    high: float


@dataclass(frozen=True)
class Facts:
    """What a model knows beside its weights.

    ``sings``: trained on notes. ``ranges``: of each voice, by name. ``boundary``: K over T, the time that shallow
    diffusion starts at, where one was fitted. ``solver``, ``steps``: how it is best sampled, where that is known.
    ``hashes``: SHA-256 of what the model was made of, by name.
    """

    sings: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict[str, Range])
    boundary: float | None = None
    solver: str | None = None
    steps: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Facts:
        """What `asdict` gave, after a trip through JSON."""
        values = dict(about)
        values["ranges"] = {name: Range(*map(float, pair)) for name, pair in values["ranges"].items()}
        return cls(**values)


@dataclass(frozen=True, eq=False)
class AcousticModel:
    """A model: its configuration, its network and its facts."""

    config: AcousticConfig
    network: AcousticNet = field(repr=False)
    facts: Facts = field(default_factory=Facts)

    @classmethod
    def new(
        cls, config: AcousticConfig, statistics: Statistics, facts: Facts | None = None, seed: int = 0
    ) -> AcousticModel:
        """A freshly initialised model. Raises ValueError for statistics of other bins or voices."""
        for name in ("low", "high"):
            found = tuple(getattr(statistics, name).shape)
            if found != (config.mel.n_mels,):
                raise ValueError(f"{name} of the statistics is {found}, expected ({config.mel.n_mels},)")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, AcousticNet(config, statistics), Facts() if facts is None else facts)

    @classmethod
    def load(cls, path: str | Path) -> AcousticModel:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "an acoustic model", cls._unfitted)

    @classmethod
    def _unfitted(cls, about: dict[str, Any]) -> AcousticModel:
        """A model of a saved configuration, its statistics still to be read."""
        facts = Facts.from_json(about.pop("facts"))
        config = AcousticConfig(mel=MelConfig(**about.pop("mel")), **about)
        mels = torch.zeros(config.mel.n_mels)
        return cls.new(config, Statistics(mels, mels, torch.zeros(len(config.voices))), facts)

    def save(self, path: str | Path) -> None:
        """Write the model as a directory; a boundary that was fitted to other weights there goes."""
        about = {**asdict(self.config), "facts": asdict(self.facts)}
        save_model(path, self.network, KIND, about, companions=BOUNDARY_FILES)

    @property
    def schedule(self) -> Schedule:
        return self.config.schedule

    @property
    def prediction(self) -> V | X0:
        return {"v": V(), "x0": X0()}[self.config.prediction]

    @property
    def device(self) -> torch.device:
        return self.network.scale.low.device

    def condition(self, batch: Batch) -> Tensor:
        """What the decoder and the denoiser are told: ``[b, hidden, frames]``, zero beyond the end of a row.

        Durations and f0 are taken from the batch.
        """
        frontend = self.network.frontend
        return frontend.condition(batch, frontend.encode(batch))

    def auxiliary(self, condition: Tensor) -> Tensor:
        """The auxiliary decoder's mel ``[b, mels, frames]`` in model units."""
        return self.network.decoder(condition).clamp(-1, 1)

    def denoiser(self, condition: Tensor) -> Denoiser[Point]:
        """The denoiser of mels ``[b, mels, frames]`` in model units given the condition, which is projected here."""
        inside = frames_of(condition)[:, None]
        network = partial(
            self.network.wavenet,
            projected=self.network.wavenet.project(condition),
            inside=None if bool(inside.all()) else inside,
        )
        return _Held(NetworkDenoiser(network, self.schedule, self.prediction))

    def voice(self, name: str | None) -> int:
        """The number of a voice; `InputError` for one that is not there, or None where there are several."""
        voices = self.config.voices
        if name is None and len(voices) == 1:
            return 0
        if name is None:
            raise InputError(f"the model has several voices: expected one of {', '.join(voices)}.")
        if name not in voices:
            raise InputError(f"there is no voice {name!r}{near_miss(name, voices)}; the model has {', '.join(voices)}.")
        return voices.index(name)

    def phone_numbers(self, phones: tuple[str, ...]) -> list[int]:
        """The numbers of phones, from 1; `InputError` for one that the model was not trained on."""
        numbers = {name: number for number, name in enumerate(self.config.phones, 1)}
        for place, phone in enumerate(phones, 1):
            if phone not in numbers:
                known = " ".join(self.config.phones)
                raise InputError(
                    f"phone {place} of {len(phones)} is {phone!r}{near_miss(phone, numbers)}, which the model was not "
                    f"trained on; it knows {known}."
                )
        return [numbers[phone] for phone in phones]


@dataclass(frozen=True)
class _Held:
    """A denoiser of data in [-1, 1]: so is its mean, and what a network says beyond is an error."""

    denoiser: Denoiser[Point]

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.denoiser(x, t, **cond).mean.clamp(-1, 1))
