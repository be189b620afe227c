"""The classifier: what it learns, what its predictions depend on, how it stops, goes on and is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from degauss.core.errors import InputError
from degauss.core.train import TrainConfig
from degauss.timeseries.classification import Classifier, NeuralSDEClassifier, stratified
from degauss.timeseries.confusion import classification_scores, confusion
from degauss.timeseries.early_stopping import Stopping, train_until_best
from degauss.timeseries.neural_sde import EncoderConfig
from degauss.timeseries.querying import NeuralSDERegressor

Options = dict[str, object]


def slopes(n: int = 60, length: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that begin alike and then rise or fall, beside a channel of noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    rise = np.linspace(0, 1, length) * (2 * labels[:, None] - 1)
    x = np.stack([rise, np.zeros_like(rise)], 1) + 0.1 * rng.normal(size=(n, 2, length))
    return x, np.array(["down", "up"])[labels]


def quick(**options: object) -> NeuralSDEClassifier:
    base: Options = {"hidden": 8, "layers": 1, "epochs": 15, "min_epochs": 5, "lr": 0.02, "device": "cpu"}
    return NeuralSDEClassifier(**(base | options))  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def fitted() -> NeuralSDEClassifier:
    return quick().fit(*slopes())


# --- what is learned ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lsde", "lnsde", "naive+control", "cde", "gru-d"])
def test_models_that_see_the_series_tell_rises_from_falls_through_gaps(model: str) -> None:
    x, y = slopes()
    x[np.random.default_rng(1).random(x.shape) < 0.5] = np.nan
    new, answers = slopes(seed=2)
    assert quick(model=model).fit(x, y).score(new, answers) > 0.9


def test_the_naive_model_cannot_as_the_series_begin_alike() -> None:
    new, answers = slopes(200, seed=2)
    assert quick(model="naive").fit(*slopes()).score(new, answers) < 0.7


def test_probabilities_are_of_the_classes_in_order(fitted: NeuralSDEClassifier) -> None:
    x, _ = slopes(seed=3)
    p = fitted.predict_proba(x)
    assert fitted.classes_.tolist() == ["down", "up"]
    assert p.shape == (60, 2)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(x), fitted.classes_[p.argmax(1)])


def test_a_prediction_does_not_depend_on_what_else_is_predicted(fitted: NeuralSDEClassifier) -> None:
    x, _ = slopes(seed=3)
    whole = fitted.predict_proba(x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_allclose(fitted.predict_proba(x[order]), whole[order], atol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(x[7:8]), whole[7:8], atol=1e-6)


def test_units_of_a_channel_do_not_matter_unless_scaling_is_none() -> None:
    x, y = slopes()
    other = x * np.array([[1000.0], [1e-3]]) + 5
    settings: Options = {"epochs": 2, "min_epochs": 0, "model": "cde"}
    a, b = quick(**settings).fit(x, y), quick(**settings).fit(other, y)
    np.testing.assert_allclose(a.predict_proba(x), b.predict_proba(other), atol=1e-3)
    c, d = quick(scaling="none", **settings).fit(x, y), quick(scaling="none", **settings).fit(other, y)
    assert np.abs(c.predict_proba(x) - d.predict_proba(other)).max() > 1e-2


def test_unequal_lengths_times_and_arrays_are_one_to_the_classifier(fitted: NeuralSDEClassifier) -> None:
    x, _ = slopes(seed=3)
    twice = [np.repeat(one, 2, axis=1)[:, ::2] for one in x]
    even = [np.linspace(0, 1, 12)] * len(x)
    np.testing.assert_array_equal(fitted.predict_proba(twice), fitted.predict_proba(x))
    np.testing.assert_array_equal(fitted.predict_proba(x, even), fitted.predict_proba(x))
    finer = [np.stack([np.interp(np.linspace(0, 1, 23), even[0], channel) for channel in one]) for one in x]
    np.testing.assert_allclose(fitted.predict_proba(finer), fitted.predict_proba(x), atol=1e-5)


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    x, y = slopes()
    model = quick(epochs=1).fit(x, np.where(y == "up", 7, 3))
    assert model.classes_.tolist() == [3, 7]
    model.save(tmp_path / "model")
    assert NeuralSDEClassifier.load(tmp_path / "model").predict(x[:2]).dtype == np.int64


# --- the protocol -------------------------------------------------------------------------------------------


def test_the_readout_is_the_published_one() -> None:
    readout = Classifier(EncoderConfig(1, (0.0, 1.0), hidden=4), 3).readout
    assert [type(layer) for layer in readout] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]


def test_parts_are_stratified_whole_and_keyed() -> None:
    labels = np.repeat(["a", "b", "c"], [20, 20, 40])
    parts = stratified(labels, (0.7, 0.15, 0.15), 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    assert [np.unique(labels[part], return_counts=True)[1].tolist() for part in parts] == [
        [14, 14, 28], [3, 3, 6], [3, 3, 6]
    ]  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(parts, stratified(labels, (0.7, 0.15, 0.15), 3), strict=True))
    assert not np.array_equal(parts[0], stratified(labels, (0.7, 0.15, 0.15), 4)[0])


class _Line(nn.Module):
    """One weight that training raises by steps of the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def _watched(judge: list[float], stopping: Stopping, tmp_path: Path) -> tuple[int, tuple[float, ...], float]:
    values = iter(judge)
    config = TrainConfig(
        out=tmp_path, steps=stopping.epochs * 2, evaluate_every=2, batch_size=1, schedule="constant", lr=0.1,
        tracker=None, device="cpu",
    )  # fmt: skip
    best = train_until_best(
        _Line(),
        lambda network, batch, noise: -next(network.parameters()),
        lambda samples: torch.zeros(1),
        config,
        lambda network: next(values),
        stopping,
        resumable=False,
    )
    return best.epoch, best.losses, float(best.weights["weight"])


def test_training_stops_when_the_protocol_says_and_keeps_the_best(tmp_path: Path) -> None:
    falling = [5.0, 4.0, 3.0, 2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 2.95]
    epoch, losses, weight = _watched(falling, Stopping(epochs=9, patience=3, least=0), tmp_path / "a")
    assert (epoch, len(losses) - 1) == (3, 6)
    assert weight == pytest.approx(0.6)  # three epochs of two steps of 0.1
    epoch, losses, _ = _watched(falling, Stopping(epochs=9, patience=3, least=5), tmp_path / "b")
    assert (epoch, len(losses) - 1) == (3, 8)
    epoch, losses, weight = _watched([1.0, *falling], Stopping(epochs=4, patience=9, least=0), tmp_path / "c")
    assert (epoch, len(losses) - 1, weight) == (0, 4, 0.0)


def test_a_stopped_run_goes_on_to_the_same_classifier(tmp_path: Path) -> None:
    """Killed after some epoch, which leaves the last checkpoint and the judgements, then run again."""
    x, y = slopes()
    settings: Options = {"epochs": 8, "min_epochs": 0, "patience": 8, "batch": 16}
    whole = quick(**settings, out=tmp_path / "whole").fit(x, y)

    class Killed(Exception):
        pass

    import degauss.timeseries.early_stopping as module

    watch = module._Watch.__call__

    def killing(self: module._Watch, network: nn.Module) -> object:
        found = watch(self, network)
        if len(self.losses) == 6:
            raise Killed
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Watch, "__call__", killing)
        patch.setattr("degauss.timeseries.irregular_estimator.SAVE_EVERY", 4)
        with pytest.raises(Killed):
            quick(**settings, out=tmp_path / "cut").fit(x, y)
    assert list((tmp_path / "cut" / "checkpoints").glob("step-*"))
    again = quick(**settings, out=tmp_path / "cut").fit(x, y)
    assert again.validation_losses_ == whole.validation_losses_
    np.testing.assert_array_equal(again.predict_proba(x), whole.predict_proba(x))


def test_fitting_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    x, y = slopes()
    before = torch.random.get_rng_state()
    a = quick(epochs=2).fit(x, y).predict_proba(x)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(a, quick(epochs=2).fit(x, y).predict_proba(x))
    assert np.abs(a - quick(epochs=2, seed=1).fit(x, y).predict_proba(x)).max() > 1e-4


# --- kept ---------------------------------------------------------------------------------------------------


def test_a_saved_classifier_predicts_the_same(fitted: NeuralSDEClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = NeuralSDEClassifier.load(tmp_path / "model")
    x, _ = slopes(seed=3)
    np.testing.assert_array_equal(loaded.predict_proba(x), fitted.predict_proba(x))
    assert (loaded.n_epochs_, loaded.validation_losses_) == (fitted.n_epochs_, fitted.validation_losses_)
    with pytest.raises(InputError, match=r"holds 'degauss.timeseries/classifier'"):
        NeuralSDERegressor.load(tmp_path / "model")


# --- scikit-learn -------------------------------------------------------------------------------------------


def test_scikit_learn_takes_it_for_a_classifier() -> None:
    sklearn_base = pytest.importorskip("sklearn.base")
    selection = pytest.importorskip("sklearn.model_selection")
    x, y = slopes()
    model = quick(epochs=12)
    copy = sklearn_base.clone(model.set_params(hidden=6))
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert sklearn_base.is_classifier(copy)
    assert selection.cross_val_score(copy, x, y, cv=3).mean() > 0.8
    search = selection.GridSearchCV(quick(epochs=1), {"hidden": [4, 6]}, cv=2).fit(x, y)
    assert search.best_params_["hidden"] in (4, 6)


def test_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c", "d"])
    actual = rng.choice(classes[:3], 50)
    p = rng.dirichlet(np.ones(4), 50)
    p[0] = np.eye(4)[(np.searchsorted(classes, actual[0]) + 1) % 4]
    predicted = classes[p.argmax(1)]
    scores = classification_scores(actual, p, classes)
    np.testing.assert_array_equal(
        confusion(actual, predicted, classes), metrics.confusion_matrix(actual, predicted, labels=classes)
    )
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(actual, predicted))
    per_class = metrics.recall_score(actual, predicted, labels=classes[:3], average="macro", zero_division=0)
    assert scores["balanced_accuracy"] == pytest.approx(per_class)
    f1 = metrics.f1_score(actual, predicted, labels=classes[:3], average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(f1)
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(actual, p, labels=classes))


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda x, y: quick().fit(x, y[:-1]), r"there are 60 series but labels of shape \(59,\)"),
        (lambda x, y: quick().fit(x, np.linspace(0, 1, 60)), "labels must be whole numbers or text, but are float64"),
        (lambda x, y: quick().fit(x, np.full(60, "up")), "all series are of class 'up'"),
        (lambda x, y: quick().fit(x[:2], y[:2]), "2 series are too few for parts"),
        (lambda x, y: quick(validation_share=0.0).fit(x, y), "shares of the series must be above 0"),
        (lambda x, y: quick().fit(x, y, validation=(x, np.full(60, "left"))), "of class 'left' too"),
        (lambda x, y: quick(model="sde").fit(x, y), "model must be one of"),
        (lambda x, y: quick(samples=0).fit(x, y), "samples must be at least 1"),
        (lambda x, y: quick(patience=0).fit(x, y), "patience must be at least 1"),
        (lambda x, y: quick(epochs=1).fit(x, y).predict(x[:, :1]), "have 1 channels; this model was trained on 2"),
        (lambda x, y: quick(epochs=1).fit(x, y).predict(x, "steps"), "times from 0 to 11; this model"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(change: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        change(*slopes())  # pyright: ignore[reportCallIssue]


def test_an_unfitted_classifier_says_so() -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        quick().predict(slopes()[0])


@pytest.mark.slow
def test_the_stable_classes_classify_basic_motions_where_the_naive_model_does_not() -> None:
    datasets = pytest.importorskip("aeon.datasets")
    x, y = datasets.load_classification("BasicMotions")
    train, valid, test = stratified(y, (0.7, 0.15, 0.15), 0)
    found = {}
    for model in ("lnsde", "naive"):
        classifier = NeuralSDEClassifier(model=model, epochs=60, device="cpu")
        found[model] = classifier.fit(x[train], y[train], validation=(x[valid], y[valid])).score(x[test], y[test])
    assert found["lnsde"] > 0.8
    assert found["naive"] < 0.6
