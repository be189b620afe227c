"""Series that no one measured: finite, various, and functions of the sample number."""

from __future__ import annotations

import numpy as np
import torch

from degauss.core.noise import Noise
from degauss.timeseries.config import TSDiffConfig
from degauss.timeseries.synthetic import SyntheticWindows, synthesize

CONFIG = TSDiffConfig(context=96, horizon=24, min_context=16, lags=(7,), hidden=4, blocks=1, state=4)


def test_series_are_finite_and_vary():
    values = synthesize(Noise(0, range(2000)), 127, torch.device("cpu"))
    assert values.shape == (2000, 127)
    assert values.dtype == torch.float64
    assert torch.isfinite(values).all()
    assert (values.std(1) > 1e-3).all()
    assert values.abs().max() < 1e3
    # From white noise to smooth curves: the correlation of neighbours takes all values.
    centred = values - values.mean(1, keepdim=True)
    neighbours = (centred[:, 1:] * centred[:, :-1]).sum(1) / (centred**2).sum(1)
    assert np.quantile(neighbours, 0.05) < 0.3
    assert np.quantile(neighbours, 0.95) > 0.95


def test_a_sample_is_the_same_in_any_batch():
    data = SyntheticWindows(CONFIG, seed=3)
    whole = data(range(20))
    for k in (0, 7, 19):
        one = data([k])
        np.testing.assert_allclose(one.values[0], whole.values[k], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(one.seen[0], whole.seen[k])
    assert not np.allclose(SyntheticWindows(CONFIG, seed=4)(range(20)).values, whole.values)
    assert len(np.unique(whole.values.sum(1))) == 20


def test_half_of_them_hide_their_beginning_but_never_more_than_the_context_can_spare():
    seen = SyntheticWindows(CONFIG)(range(4000)).seen.numpy()
    assert seen.shape == (4000, 7 + 96 + 24)
    hidden = (seen == 0).sum(1)
    np.testing.assert_array_equal(seen, np.arange(127) >= hidden[:, None])
    assert 0.46 < (hidden > 0).mean() < 0.54
    assert hidden.max() == 7 + 96 - 16
    assert hidden[hidden > 0].min() == 7
    assert (seen[:, 7 : 7 + 96].sum(1) >= 16).all()


def test_a_model_that_needs_its_whole_context_hides_only_what_lies_before_it():
    config = TSDiffConfig(context=20, horizon=4, min_context=20, lags=(5,), hidden=4, blocks=1, state=4)
    hidden = (SyntheticWindows(config)(range(200)).seen == 0).sum(1)
    assert set(hidden.tolist()) == {0, 5}
