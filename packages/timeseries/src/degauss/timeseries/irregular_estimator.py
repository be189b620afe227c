"""What estimators of irregular series share: their parameters, how they train, how they draw, how they are kept."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from degauss.core.checkpoint import load_model, load_weights, save_model
from degauss.core.errors import InputError, check_option, check_range, near_miss
from degauss.core.noise import Noise
from degauss.core.train import Data, Loss, TrainConfig
from degauss.timeseries.early_stopping import Best, Stopping, train_until_best
from degauss.timeseries.irregular import Array, Irregular, Scale, scale_of
from degauss.timeseries.neural_sde import Clipping, Control, Encoder, EncoderConfig, Model

Inputs = tuple[Tensor, ...]
Report = Callable[[int, int], None]

SAVE_EVERY = 200
_ROWS = 256


@dataclass(eq=False, kw_only=True)
class IrregularEstimator:
    """The parameters, with the manners of scikit-learn.

    model, hidden, layers, control, stabilisers, span: see `neural_sde`; a span of 1 is the published one, and a longer
    one lets states follow faster changes. scaling: "standard" gives every channel mean 0 and deviation 1 by the
    training series; "none" leaves them, as the published benchmark does. epochs, patience, min_epochs: see
    `early_stopping`. batch: series a step, the largest power of two up to half of them, but 16 to 128, unless given.
    lr: at the start. validation_share: of the training series kept to judge by, where ``fit`` is given none. samples:
    draws that a prediction is the mean of, where the model is random. seed: all that is random follows from it. out:
    directory of the run, where it can go on after a stop; a temporary one unless given. Training takes one process.
    """

    model: Model = "lnsde"
    hidden: int = 32
    layers: int = 2
    control: Control = "linear"
    stabilisers: Clipping = "published"
    span: float = 1.0
    scaling: Literal["standard", "none"] = "standard"
    epochs: int = 100
    patience: int = 10
    min_epochs: int = 20
    batch: int | None = None
    lr: float = 0.01
    validation_share: float = 0.15
    samples: int = 4
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    out: str | Path | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        del deep
        return {slot.name: getattr(self, slot.name) for slot in fields(self) if slot.init}

    def set_params(self, **params: Any) -> Self:
        """Change some of them, for the next fit; `InputError` for one there is not."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(f"{type(self).__name__} has no parameter {name!r}{near_miss(name, known)}.")
            setattr(self, name, value)
        return self

    def scale(self, series: Irregular) -> Scale:
        """The units that the model computes in. GRU-D fills in means, which are 0 in standard units alone."""
        check_option("scaling", self.scaling, ("standard", "none"))
        if self.scaling == "standard":
            return scale_of(series)
        if self.model == "gru-d":
            raise InputError("scaling is 'none', but model 'gru-d' expects 'standard'.")
        channels = series.values.shape[2]
        return Scale(np.zeros(channels), np.ones(channels))

    def encoder_config(self, channels: int, grid: Array) -> EncoderConfig:
        return EncoderConfig(
            channels=channels,
            times=tuple(grid.tolist()),
            model=self.model,
            hidden=self.hidden,
            layers=self.layers,
            control=self.control,
            stabilisers=self.stabilisers,
            span=self.span,
        )

    def train(
        self, network: nn.Module, loss: Loss[Any], data: Data[Any], judge: Callable[[nn.Module], float], count: int
    ) -> Best:
        """Train on ``count`` series by the published protocol, with the learning rate falling by a cosine."""
        check_range("samples", self.samples, 1)
        batch = self.batch or min(128, max(16, 2 ** (max(count, 2) // 2).bit_length() // 2))
        stopping = Stopping(self.epochs, self.patience, self.min_epochs)
        every = -(-count // batch)
        with TemporaryDirectory(prefix="degauss-") as temporary:
            settings = TrainConfig(
                out=Path(temporary if self.out is None else self.out),
                steps=stopping.epochs * every,
                batch_size=batch,
                lr=self.lr,
                weight_decay=0.01 * self.lr,
                clip=None,
                seed=self.seed,
                save_every=max(SAVE_EVERY, every),
                log_every=every,
                evaluate_every=every,
                tracker=None,
                device=self.device,
            )
            return train_until_best(network, loss, data, settings, judge, stopping, resumable=self.out is not None)


E = TypeVar("E", bound=IrregularEstimator)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Initialise networks by a seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Draw(NamedTuple):
    """Rows of a batch and the noise of one draw for them."""

    rows: slice
    inputs: Inputs
    noise: Noise


def draws(encoder: Encoder, inputs: Inputs, samples: int, seed: int, report: Report | None = None) -> Iterator[Draw]:
    """Every draw of every row, some rows at a time; once where the encoder is not random.

    The noise of a series follows from what it holds, so its prediction does not depend on what else is predicted.
    """
    device = next(encoder.parameters()).device
    first = inputs[0].cpu().contiguous().numpy()
    keys = [zlib.crc32(row.tobytes()) for row in first]
    count = samples if encoder.random else 1
    for start in range(0, len(keys), _ROWS):
        rows = slice(start, min(start + _ROWS, len(keys)))
        some = tuple(part[rows].to(device) for part in inputs)
        for j in range(count):
            yield Draw(rows, some, Noise(seed, [(key << 20) + j for key in keys[rows]]))
        if report is not None:
            report(rows.stop, len(keys))


def take(inputs: Inputs, rows: NDArray[np.int64] | Sequence[int]) -> Inputs:
    index = torch.as_tensor(np.asarray(rows))
    return tuple(part.index_select(0, index) for part in inputs)


def frozen(network: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Put the weights in, on the CPU, for predictions alone."""
    load_weights(network.cpu(), weights, source)
    network.eval().requires_grad_(False)


def save_fitted(
    path: str | Path, kind: str, network: nn.Module, config: EncoderConfig, scale: Scale, extra: Mapping[str, Any]
) -> None:
    """Write a fitted model as a directory of safetensors and JSON."""
    about = {"encoder": asdict(config), "centre": scale.centre.tolist(), "width": scale.width.tolist(), **extra}
    save_model(path, network, kind, json.loads(json.dumps(about)))


def settings_of(estimator: IrregularEstimator, epoch: int, losses: Sequence[float]) -> dict[str, Any]:
    """What is kept of an estimator beside its network, for `restored`."""
    return {
        "samples": estimator.samples,
        "seed": estimator.seed,
        "scaling": estimator.scaling,
        "epoch": epoch,
        "losses": losses,
    }


def restored(kind: type[E], config: EncoderConfig, settings: Mapping[str, Any]) -> E:
    """An estimator with the parameters that it was saved with; KeyError where one is missing."""
    return kind(
        model=config.model,
        hidden=config.hidden,
        layers=config.layers,
        control=config.control,
        stabilisers=config.stabilisers,
        span=config.span,
        scaling=settings["scaling"],
        samples=settings["samples"],
        seed=settings["seed"],
    )


class Loaded(NamedTuple):
    """What `save_fitted` wrote."""

    weights: dict[str, Tensor]
    config: EncoderConfig
    scale: Scale
    extra: dict[str, Any]


def load_fitted(path: str | Path, kind: str) -> Loaded:
    """Read what `save_fitted` wrote; `InputError` for anything else."""
    weights, values = load_model(path, kind)
    try:
        config = EncoderConfig(**values.pop("encoder"))
        scale = Scale(*(np.asarray(values.pop(name), dtype=np.float64) for name in ("centre", "width")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the configuration is not that of such a model ({error}).") from None
    return Loaded(weights, config, scale, values)
