r"""Classification of irregular series by a neural differential equation, in the manners of scikit-learn and aeon.

    classifier = NeuralSDEClassifier(model="lnsde").fit(X, y)
    classifier.predict(X_new), classifier.predict_proba(X_new), classifier.score(X_new, y_new)

X is an array ``[n, channels, length]`` with NaN for what is missing, or a list of arrays ``[channels, length_i]``.
Without ``times`` every series lasts as long as the others, whatever its length, as in the published benchmark: a
shorter one is stretched. The last state z of the encoder (`neural_sde`) is read by

    logits = W_2 dropout(relu(batch_norm(W_1 z + b_1))) + b_2,

and trained by cross-entropy. The noise stays when the model is used: a probability is the mean over some draws.
Reference: Oh, Lim and Kim 2024, and its benchmark of 30 data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.train import Shuffle
from degauss.timeseries.irregular import Array, Irregular, Scale, Times, check_span, grid_of, irregular
from degauss.timeseries.irregular_estimator import (
    Inputs,
    IrregularEstimator,
    Report,
    draws,
    frozen,
    load_fitted,
    restored,
    save_fitted,
    seeded,
    settings_of,
    take,
)
from degauss.timeseries.neural_sde import EncoderConfig, encoder

KIND = "degauss.timeseries/classifier"

Labels = NDArray[Any]


class Classifier(nn.Module):
    """An encoder and the readout of its last state; logits ``[batch, classes]``."""

    def __init__(self, config: EncoderConfig, classes: int) -> None:
        super().__init__()
        self.encoder = encoder(config)
        self.readout = nn.Sequential(
            nn.Linear(config.hidden, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(config.hidden, classes),
        )

    def forward(self, inputs: Inputs, noise: Noise) -> Tensor:
        return self.readout(self.encoder(inputs, noise, keep="last"))


@dataclass(frozen=True, eq=False)
class _Fitted:
    config: EncoderConfig
    scale: Scale
    network: Classifier
    epoch: int
    losses: tuple[float, ...]

    def inputs(self, series: Irregular) -> Inputs:
        if series.values.shape[2] != self.config.channels:
            raise InputError(
                f"the series have {series.values.shape[2]} channels; this model was trained on {self.config.channels}."
            )
        check_span(series, self.config.grid)
        return self.network.encoder.inputs(self.scale.apply(series))


@dataclass(eq=False, kw_only=True)
class NeuralSDEClassifier(IrregularEstimator):
    """A classifier of series with gaps and times of their own. For the parameters see `IrregularEstimator`.

    After ``fit``: ``classes_``, the labels in order; ``n_epochs_``, the epoch whose weights were kept;
    ``validation_losses_``, one for each epoch.
    """

    classes_: Labels = field(init=False, repr=False)
    _fitted: _Fitted | None = field(default=None, init=False, repr=False)

    def fit(
        self,
        X: Any,
        y: Any,
        times: Times = "stretched",
        validation: Sequence[Any] | None = None,
        grid: Array | None = None,
    ) -> Self:
        """Train on the series and their labels (whole numbers or text, two classes or more).

        times: of all series or of each. validation: (X, y) or (X, y, times) to judge by. grid: the times that the
        encoder steps through; those that all series share, or else as many even ones over their span as the longest
        has, unless given. Raises `InputError` for anything that cannot be trained on.
        """
        series = irregular(X, times)
        labels = _labels(y, len(series.values))
        if validation is None:
            kept, held = stratified(labels, (1 - self.validation_share, self.validation_share), self.seed)
            train, judged = (series.take(kept), labels[kept]), (series.take(held), labels[held])
        else:
            other = irregular(validation[0], *validation[2:])
            train, judged = (series, labels), (other, _labels(validation[1], len(other.values)))
        classes = np.unique(train[1])
        _check_classes(classes, judged[1])
        scale = self.scale(train[0])
        config = self.encoder_config(series.values.shape[2], grid_of(series) if grid is None else grid)
        for part in (train[0], judged[0]):
            check_span(part, config.grid)
        with seeded(self.seed):
            network = Classifier(config, len(classes))
        inputs, targets = network.encoder.inputs(scale.apply(train[0])), _codes(train[1], classes)
        judge_inputs, judge_targets = network.encoder.inputs(scale.apply(judged[0])), _codes(judged[1], classes)
        order = Shuffle(len(targets), self.seed)

        def data(samples: Sequence[int]) -> tuple[Inputs, Tensor]:
            rows = order(samples)
            return take(inputs, rows), targets[rows]

        def judge(network: nn.Module) -> float:
            assert isinstance(network, Classifier)
            with torch.no_grad():
                return float(functional.cross_entropy(_one_draw(network, judge_inputs, self.seed), judge_targets))

        best = self.train(network, _loss, data, judge, len(targets))
        frozen(network, best.weights, "the run")
        self.classes_ = classes
        self._fitted = _Fitted(config, scale, network, best.epoch, best.losses)
        return self

    @property
    def n_epochs_(self) -> int:
        return self._known().epoch

    @property
    def validation_losses_(self) -> tuple[float, ...]:
        return self._known().losses

    def predict_proba(self, X: Any, times: Times = "stretched", report: Report | None = None) -> Array:
        """Probabilities ``[n, classes]`` in the order of ``classes_``; ``report`` is told (series done, in all).

        Raises `InputError` for series that are not like those of the training, or beyond their span of time.
        """
        fitted = self._known()
        inputs = fitted.inputs(irregular(X, times))
        total = torch.zeros(len(inputs[0]), len(self.classes_), dtype=torch.float64)
        with torch.no_grad():
            for draw in draws(fitted.network.encoder, inputs, self.samples, self.seed, report):
                total[draw.rows] += fitted.network(draw.inputs, draw.noise).double().softmax(-1).cpu()
        wrong = torch.nonzero(~total.isfinite().all(-1))
        if len(wrong):
            where = int(wrong[0])
            raise InputError(f"the states of series {where} are not finite; expected a lower lr or stabilisers.")
        return (total / total.sum(-1, keepdim=True)).numpy()

    def predict(self, X: Any, times: Times = "stretched") -> Labels:
        """The most probable label of each series."""
        probabilities = self.predict_proba(X, times)
        return self.classes_[probabilities.argmax(-1)]

    def score(self, X: Any, y: Any, times: Times = "stretched") -> float:
        """The share of series whose label is predicted."""
        series = irregular(X, times)
        return float((self.predict(X, times) == _labels(y, len(series.values))).mean())

    def save(self, path: str | Path) -> None:
        """Write the fitted model as a directory of safetensors and JSON, for ``load``."""
        fitted = self._known()
        extra = {"classes": self.classes_.tolist()} | settings_of(self, fitted.epoch, fitted.losses)
        save_fitted(path, KIND, fitted.network, fitted.config, fitted.scale, extra)

    @classmethod
    def load(cls, path: str | Path) -> NeuralSDEClassifier:
        """A saved classifier, with the same predictions; `InputError` for anything that is not one."""
        weights, config, scale, extra = load_fitted(path, KIND)
        try:
            classes = np.asarray(extra["classes"])
            estimator = restored(cls, config, extra)
            epoch, losses = extra["epoch"], tuple(extra["losses"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: the configuration is not that of a classifier ({error!r}).") from None
        network = Classifier(config, len(classes))
        frozen(network, weights, path)
        estimator.classes_ = classes
        estimator._fitted = _Fitted(config, scale, network, epoch, losses)
        return estimator

    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise RuntimeError("this classifier is not fitted: call fit(X, y) first")
        return self._fitted

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks before it splits or searches."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True, allow_nan=True),
        )


def stratified(labels: Labels, shares: Sequence[float], seed: int = 0) -> list[NDArray[np.int64]]:
    """Rows in random parts of these shares of every class, each part in ascending order.

    `InputError` if the shares are not positive, do not add up to 1, or leave a part empty.
    """
    if any(not share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise InputError(f"shares of the series must be above 0 and add up to 1, but are {tuple(shares)}.")
    generator = np.random.default_rng([seed, 0x5A])
    parts: list[list[int]] = [[] for _ in shares]
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(shares) * len(rows)).astype(np.int64)
        for part, first, last in zip(parts, [0, *ends[:-1]], ends, strict=True):
            part.extend(rows[first:last].tolist())
    if not all(parts):
        raise InputError(f"{len(labels)} series are too few for parts of {tuple(shares)} of every class.")
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]


def _loss(network: nn.Module, batch: tuple[Inputs, Tensor], noise: Noise) -> Tensor:
    inputs, targets = batch
    return functional.cross_entropy(network(inputs, noise), targets, reduction="none")


def _one_draw(network: Classifier, inputs: Inputs, seed: int) -> Tensor:
    """The logits ``[n, classes]`` of one draw of each row, always the same one, on the CPU."""
    parts = [network(draw.inputs, draw.noise) for draw in draws(network.encoder, inputs, 1, seed)]
    return torch.cat(parts).cpu()


def _labels(y: Any, count: int) -> Labels:
    labels = np.asarray(y)
    if labels.ndim != 1 or len(labels) != count:
        raise InputError(f"there are {count} series but labels of shape {labels.shape}; expected one for each.")
    if labels.dtype.kind == "O":
        labels = labels.astype(str)
    if labels.dtype.kind not in "biuU":
        raise InputError(f"labels must be whole numbers or text, but are {labels.dtype}.")
    return labels


def _check_classes(classes: Labels, judged: Labels) -> None:
    if len(classes) < 2:
        raise InputError(f"all series are of class {classes.tolist()[0]!r}; expected two classes or more.")
    strange = np.setdiff1d(judged, classes)
    if len(strange):
        raise InputError(
            f"the validation series are of class {strange.tolist()[0]!r} too, of which none is trained on."
        )


def _codes(labels: Labels, classes: Labels) -> Tensor:
    return torch.from_numpy(np.searchsorted(classes, labels))
