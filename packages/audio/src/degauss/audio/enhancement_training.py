"""Training an enhancer: the one recipe behind the command, the claims and the shipped model.

StoRM is trained as published: the predictive network alone first, then both jointly. What is alike is shared: a
predictive model is the first half of it, and SGMSE+ the second without the first. Before a diffusion network is
trained, the deviation of the clean spectrum from what it is centred on is measured, for its preconditioning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.audio.enhancement import Enhancer, EnhancerConfig, Pairs
from degauss.audio.mixtures import Mixtures, Recordings
from degauss.audio.rooms import SomeInRooms, drawn_room, responses
from degauss.core.errors import InputError, check_range
from degauss.core.noise import Noise
from degauss.core.train import Data, TrainConfig, train

SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
"""Suffixes of the files that a folder is searched for."""

# How many pairs the deviation is measured on, and the part of the numbers that training never reaches.
_MEASURED, _VALID = 32, 1 << 40


# --- data ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairedFiles:
    """Numbers -> pairs cut from files: ``noisy[i]`` and ``clean[i]`` are the same sound with and without its noise.

    A file and a place in it are drawn for each number; a file shorter than ``seconds`` is followed by silence. Raises
    `InputError` where the two of a pair differ in length.
    """

    noisy: Recordings
    clean: Recordings
    seconds: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("seconds", self.seconds, 0.1)

    @property
    def length(self) -> int:
        return round(self.seconds * self.noisy.rate)

    def __call__(self, samples: Sequence[int]) -> Pairs:
        noisy, clean = zip(*(self.pair(number) for number in samples), strict=True)
        return Pairs(torch.stack(noisy), torch.stack(clean))

    def pair(self, number: int) -> tuple[Tensor, Tensor]:
        """(noisy, clean), each ``[length]``."""
        which, place = Noise(self.seed, [number]).uniform(torch.empty(1, 2, dtype=torch.float64))[0].tolist()
        index = min(int(which * len(self.noisy)), len(self.noisy) - 1)
        noisy, clean = self.noisy[index], self.clean[index]
        if len(noisy) != len(clean):
            raise InputError(
                f"{self.noisy.paths[index]} has {len(noisy)} samples, but {self.clean.paths[index]} has {len(clean)}; "
                "expected the same sound with and without noise."
            )
        begin = int(place * max(0, len(noisy) - self.length + 1))
        cut = (sound[begin : begin + self.length] for sound in (noisy, clean))
        noisy, clean = (F.pad(sound, (0, self.length - len(sound))) for sound in cut)
        return noisy, clean


def paired_folder(folder: Path, rate: int, seconds: float, seed: int) -> PairedFiles:
    """``clean/`` and ``noisy/`` with files of the same names, as VoiceBank-DEMAND has them.

    Raises `InputError` for a folder that is missing or empty, or a file without a partner (named).
    """
    clean, noisy = (_by_name(folder / name) for name in ("clean", "noisy"))
    if alone := sorted(clean.keys() ^ noisy.keys()):
        here, there = ("noisy", "clean") if alone[0] in noisy else ("clean", "noisy")
        raise InputError(f"{folder / here / alone[0]} has no partner; expected {folder / there / alone[0]}.")
    names = sorted(clean)
    files = (Recordings([found[name] for name in names], rate) for found in (noisy, clean))
    return PairedFiles(*files, seconds=seconds, seed=seed)


def mixed_folder(folder: Path, rate: int, seconds: float, snr: tuple[float, float], seed: int) -> Mixtures:
    """``clean/`` and ``noise/``, mixed anew for each pair; without ``noise/``, nothing is mixed in.

    A folder in ``clean/`` is a speaker; loose files are one.
    """
    noise = folder / "noise"
    noises = Recordings(list(_by_name(noise).values()), rate) if noise.is_dir() else [torch.zeros(1)]
    speakers: dict[str, list[Path]] = {}
    for name, path in _by_name(folder / "clean").items():
        speakers.setdefault(Path(name).parts[0] if len(Path(name).parts) > 1 else "", []).append(path)
    recordings = [Recordings(paths, rate) for _, paths in sorted(speakers.items())]
    return Mixtures(recordings, noises, rate, seconds, snr, seed=seed)


@dataclass(frozen=True)
class Folder:
    """What a folder gives: training pairs, and validation pairs where it has any."""

    train: Data[Pairs]
    valid: Data[Pairs] | None


def training_folder(
    folder: Path, rate: int, seconds: float, snr: tuple[float, float], seed: int, rooms: float = 0.0
) -> Folder:
    """Pairs of a folder in one of these layouts; `InputError` for any other.

    ``{train,valid}/{clean,noisy}/NAME`` (``valid`` may be missing), ``{clean,noisy}/NAME``, or ``clean/`` and
    ``noise/``, which are mixed on the fly. ``rooms``: the share of those that is spoken in simulated rooms; where there
    is such a share ``noise/`` may be missing, and what is learnt is to remove reverberation alone.
    """
    check_range("rooms", rooms, 0, 1)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; expected one with clean/ and noisy/, or clean/ and noise/.")
    paired = next((name for name in ("train", "noisy") if (folder / name).is_dir()), None)
    if rooms > 0:
        if paired is not None:
            raise InputError(f"{folder / paired}: holds pairs, which are in rooms already; expected rooms to be 0.")
        return Folder(_in_rooms(mixed_folder(folder, rate, seconds, snr, seed), rooms), None)
    if paired == "train":
        valid = paired_folder(folder / "valid", rate, seconds, seed) if (folder / "valid").is_dir() else None
        return Folder(paired_folder(folder / "train", rate, seconds, seed), valid)
    if paired == "noisy":
        return Folder(paired_folder(folder, rate, seconds, seed), None)
    if (folder / "noise").is_dir():
        return Folder(mixed_folder(folder, rate, seconds, snr, seed), None)
    raise InputError(
        f"{folder}: holds neither train/, noisy/ nor noise/; expected clean/ with noisy/ or noise/ beside it, or rooms "
        "above 0."
    )


def _in_rooms(mixtures: Mixtures, share: float) -> SomeInRooms:
    try:
        responses(drawn_room(mixtures.seed, 0), mixtures.rate)  # before anything is written
    except ImportError as missing:
        raise InputError(str(missing)) from None
    return SomeInRooms(mixtures, share)


def sound_files(folder: Path) -> list[Path]:
    """The sound files in a folder and below, by name, without hidden ones."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; expected sound files in it.")
    found = {path.relative_to(folder).as_posix(): path for path in sound_files(folder)}
    if not found:
        raise InputError(f"{folder}: holds no sound; expected files that end in {', '.join(SOUNDS)}.")
    return found


# --- training -----------------------------------------------------------------------------------------------


def recipe(
    out: Path,
    *,
    steps: int,
    batch: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    tracker: Literal["tensorboard"] | None = None,
) -> TrainConfig:
    """How an enhancer is trained, in the directory ``out``; `InputError` for a value out of its range.

    The published batch and average of weights (0.999). The published learning rate is 1e-4 for days on GPUs; smaller
    networks in less time want ten times that, falling by a cosine after a short warm-up.
    """
    return TrainConfig(
        out=out,
        steps=steps,
        batch_size=batch,
        lr=lr,
        warmup=min(100, steps // 10),
        ema=0.999,
        precision=precision,
        seed=seed,
        save_every=250,
        tracker=tracker,
        device=device,
    )


def fit(
    config: EnhancerConfig,
    data: Data[Pairs],
    settings: TrainConfig,
    *,
    first_steps: int | None = None,
    valid: Data[Pairs] | None = None,
) -> Enhancer:
    """Train on pairs, write the model to ``out/model``, and return it, frozen, on the CPU.

    StoRM's predictive network is first trained alone for ``first_steps`` (as many as ``settings`` has unless given) in
    ``out/predictive``, whose model is one of its own. ``valid``: pairs whose loss is logged, with the same noise every
    time. A run that was stopped goes on; see `degauss.core.train` for what it raises.
    """
    if config.method == "storm":
        steps = settings.steps if first_steps is None else first_steps
        alone = replace(settings, out=settings.out / "predictive", steps=steps, warmup=min(settings.warmup, steps))
        first = fit(replace(config, score=None), data, alone, valid=valid)
        return _fit(replace(config, spread=measured_spread(first, data)), data, settings, valid, first)
    if config.method == "sgmse":
        config = replace(config, spread=measured_spread(Enhancer.new(config), data))
    return _fit(config, data, settings, valid, None)


def _fit(
    config: EnhancerConfig,
    data: Data[Pairs],
    settings: TrainConfig,
    valid: Data[Pairs] | None,
    first: Enhancer | None,
) -> Enhancer:
    model = Enhancer.new(config, settings.seed)
    if first is not None and first.network.predictive is not None and model.network.predictive is not None:
        model.network.predictive.load_state_dict(first.network.predictive.state_dict())
    evaluate = None if valid is None else _validation(model, valid)
    result = train(model.network, model.loss, data, settings, evaluate=evaluate)
    model.save(settings.out / "model", result.weights)
    return Enhancer.load(settings.out / "model")


def measured_spread(model: Enhancer, data: Data[Pairs]) -> float:
    """Root mean square of x - mu over some training pairs; mu is y, or D(y) where there is a predictive network."""
    noisy, clean = data(range(_MEASURED))
    peak = noisy.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    total = 0.0
    with torch.no_grad():
        for row in range(_MEASURED):  # one at a time: as much memory as one needs
            x, y = (model.config.spectrum.encode((wave / peak)[row : row + 1]) for wave in (clean, noisy))
            mu = y if model.network.predictive is None else model.network.predictive(y)
            total += float((x - mu).square().mean())
    return (total / _MEASURED) ** 0.5


def _validation(model: Enhancer, valid: Data[Pairs]) -> Callable[[nn.Module], Mapping[str, float]]:
    pairs = valid(range(_MEASURED))

    def evaluate(network: nn.Module) -> Mapping[str, float]:
        device = next(network.parameters()).device
        batch = Pairs(*(part.to(device) for part in pairs))
        with torch.no_grad():
            return {"valid_loss": float(model.loss(network, batch, Noise(_VALID, range(_MEASURED))).mean())}

    return evaluate
