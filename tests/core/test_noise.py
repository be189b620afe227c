"""Keyed randomness: the law of the numbers, what they depend on, and Brownian paths under refinement."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from degauss.core import noise as noise_module
from degauss.core import philox
from degauss.core.noise import Noise

CPU = torch.device("cpu")
ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=6)


def increments(clock: tuple[float, ...], like: Tensor, noise: Noise) -> Tensor:
    """All normalised increments of a path, ``[N, *like.shape]``."""
    return torch.stack([noise.brownian(clock, i, like) for i in range(len(clock) - 1)])


def even(steps: int) -> tuple[float, ...]:
    return tuple(i / steps for i in range(steps + 1))


# The generator


@given(st.integers(-(2**70), 2**70), ids, st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
       st.integers(0, 5), st.integers(1, 33))  # fmt: skip
def test_words_are_numpys_philox(seed: int, samples: list[int], draws: list[int], purpose: int, count: int) -> None:
    blocks = -(-count // 4)
    words = philox.words(seed, samples, draws, purpose, count)
    assert words.shape == (len(draws), len(samples), 4 * blocks)
    for d, draw in enumerate(draws):
        for row, sample in enumerate(samples):
            # random_raw counts before it produces; Python integers show which counter each block has.
            first = sum(word << (64 * i) for i, word in enumerate((sample * blocks, blocks, draw, purpose)))
            oracle = np.random.Philox(key=seed % 2**64, counter=first)
            assert (words[d, row] == oracle.random_raw(4 * blocks)).all()


def test_words_of_a_range_are_those_of_its_list() -> None:
    assert (philox.words(1, range(3, 9), (0, 7), 0, 10) == philox.words(1, list(range(3, 9)), (0, 7), 0, 10)).all()


KERNEL_TRIALS = """
import numpy as np, sys, torch
from degauss.core import philox, philox_triton
device = torch.device(sys.argv[1])
trials = [
    (0, range(5), (0,), 0, 3),
    (1, [7, 3, 3, 9], (5, 1, 2**40), 2, 17),
    (2**64 - 1, [2**50, 1], (1, 2, 3), 1, 4),
    (-3, [0], (1,), 0, 1),
    (2**63, range(1, 2), range(4), 0, 40),
    (123456789012, [4], (2**63 + 5,), 0, 1100),
    (5, [8, 9, 10], (0,), 0, 1500),
    (5, [], (0,), 0, 3),
]
for trial in trials:
    words = philox.words(*trial).view(np.int64)
    assert (philox_triton.words_cuda(*trial, device).cpu().numpy() == words).all(), trial
    normals = philox.normals(*trial, torch.device("cpu"))
    there = philox_triton.normals_cuda(*trial, device).cpu()
    torch.testing.assert_close(there, normals, rtol=1e-5, atol=2e-6)
"""


def run_kernel(device: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERNEL_TRIALS, device],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_triton_kernel_gives_the_same_words_interpreted() -> None:
    pytest.importorskip("triton")
    run_kernel("cpu", TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_the_triton_kernel_gives_the_same_words() -> None:
    pytest.importorskip("triton")
    run_kernel("cuda")


@pytest.mark.gpu
def test_devices_agree() -> None:
    like = torch.empty(5, 3, 1001)
    noise = Noise(3, range(5))
    torch.testing.assert_close(noise.normal(like.cuda()).cpu(), noise.normal(like), rtol=1e-5, atol=2e-6)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(noise.uniform(like.cuda().to(dtype)).cpu(), noise.uniform(like.to(dtype)))
    paths = [increments(even(37), like.to(device), Noise(3, range(5))).cpu() for device in ("cuda", "cpu")]
    torch.testing.assert_close(*paths, rtol=1e-4, atol=1e-5)


# The law


def test_normals_are_normal() -> None:
    n = 200_000
    z = Noise(0, range(20)).normal(torch.empty(20, n // 20, dtype=torch.float64)).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert stats.kstest(z[: n // 2] * z[n // 2 :], _product_normal_cdf).pvalue > 1e-3
    standard_errors = (1, math.sqrt(2), math.sqrt(15), math.sqrt(96))
    for power, (moment, error) in enumerate(zip((0, 1, 0, 3), standard_errors, strict=True), start=1):
        assert abs(np.mean(z**power) - moment) < 4.5 * error / math.sqrt(n)
    assert np.abs(z).max() > 4


def _product_normal_cdf(x: np.ndarray) -> np.ndarray:
    """P(Z1 Z2 <= x), by the density K0(|x|) / pi."""
    from scipy.special import iti0k0

    upper = iti0k0(np.abs(x))[1] / np.pi
    return 0.5 + np.sign(x) * np.minimum(upper, 0.5)


def test_cosines_and_sines_of_an_event_are_uncorrelated() -> None:
    n = 100_000
    z = Noise(4, [0]).normal(torch.empty(1, n, dtype=torch.float64))[0]
    for power in (1, 2):
        first, second = (z[: n // 2] ** power).numpy(), (z[n // 2 :] ** power).numpy()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / math.sqrt(n // 2)


def test_uniforms_are_uniform() -> None:
    for dtype in (torch.float32, torch.float64):
        u = Noise(1, range(10)).uniform(torch.empty(10, 20_000, dtype=dtype)).double().flatten().numpy()
        assert stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_uniforms_never_reach_an_end(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([[[0, 2**64 - 1, 2**63, 2**63 - 1]]], dtype=np.uint64)
    monkeypatch.setattr(philox, "words", lambda *_: extremes)
    u = philox.uniforms(0, [0], 0, 0, 4, dtype, CPU)
    assert u.dtype == dtype
    assert bool(((u > 0) & (u < 1)).all())
    assert u[0, 0] < 0.01
    assert u[0, 1] > 0.99
    assert u[0, 3] < 0.5 < u[0, 2]


def test_extreme_words_give_finite_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = np.array([[[0, 2**64 - 1, 2**63, 2**31 - 1]]], dtype=np.uint64)
    monkeypatch.setattr(philox, "words", lambda *_: extremes)
    z = philox.normals(0, [0], (0,), 0, 8, CPU)
    assert bool(torch.isfinite(z).all())
    assert z.abs().max() < 7


# What a number depends on


@given(ids, st.integers(0, 2**32), st.integers(0, 9))
def test_a_sample_does_not_depend_on_its_batch(samples: list[int], seed: int, draw: int) -> None:
    like = torch.empty(len(samples), 3, 5)
    batch = Noise(seed, samples)
    normal, uniform = batch.normal(like, draw), batch.uniform(like, draw)
    for row, sample in enumerate(samples):
        alone = Noise(seed, [sample])
        assert torch.equal(alone.normal(like[:1], draw)[0], normal[row])
        assert torch.equal(alone.uniform(like[:1], draw)[0], uniform[row])


def test_split_permutation_and_take() -> None:
    like = torch.empty(8, 7)
    whole = Noise(5, range(8))
    z = whole.normal(like)
    assert torch.equal(torch.cat([Noise(5, range(3)).normal(like[:3]), Noise(5, range(3, 8)).normal(like[3:])]), z)
    order = [6, 1, 1, 7, 0]
    assert torch.equal(Noise(5, order).normal(like[:5]), z[order])
    taken = whole.take(order)
    assert list(taken.samples) == order
    assert torch.equal(taken.normal(like[:5]), z[order])
    assert torch.equal(taken.take([2, 3]).normal(like[:2]), z[[1, 7]])
    assert whole.take([]).normal(like[:0]).shape == (0, 7)


def test_repeated_calls_give_the_same_numbers_and_leave_global_state_alone() -> None:
    before = torch.get_rng_state()
    like = torch.empty(2, 9)
    noise = Noise(0, range(2))
    first = noise.normal(like)
    first_copy = first.clone()
    noise.uniform(like)
    noise.brownian(even(3), 1, like)
    first.zero_()  # results belong to the caller
    assert torch.equal(noise.normal(like), first_copy)
    assert torch.equal(torch.get_rng_state(), before)


FINGERPRINT = """
import hashlib, torch
from degauss.core.noise import Noise
like, noise = torch.empty(3, 50), Noise(11, [4, 2, 9])
parts = [noise.normal(like, 1), noise.uniform(like), noise.brownian((0.0, 1.0, 3.0, float("inf")), 1, like)]
print(hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest())
"""


def test_another_process_sees_the_same_numbers() -> None:
    other = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    like, noise = torch.empty(3, 50), Noise(11, [4, 2, 9])
    parts = [noise.normal(like, 1), noise.uniform(like), noise.brownian((0.0, 1.0, 3.0, math.inf), 1, like)]
    here = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    assert other.stdout.strip() == here


def test_precisions_see_the_same_noise() -> None:
    like = torch.empty(2, 33)
    single = Noise(0, range(2)).normal(like)
    assert torch.equal(Noise(0, range(2)).normal(like.double()), single.double())
    assert torch.equal(Noise(0, range(2)).normal(like.bfloat16()), single.bfloat16())
    wide, narrow = Noise(0, range(2)).uniform(like.double()), Noise(0, range(2)).uniform(like)
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=2.0**-23)
    path = increments(even(5), like, Noise(0, range(2)))
    assert torch.equal(increments(even(5), like.double(), Noise(0, range(2))), path.double())


def test_different_keys_are_independent() -> None:
    n = 40_000
    like = torch.empty(1, n, dtype=torch.float64)
    streams = {
        "base": Noise(0, [0]).normal(like),
        "draw": Noise(0, [0]).normal(like, 1),
        "seed": Noise(1, [0]).normal(like),
        "sample": Noise(0, [1]).normal(like),
        "size": Noise(0, [0]).normal(torch.empty(1, n + 8, dtype=torch.float64))[:, :n],
        "uniform": Noise(0, [0]).uniform(like) - 0.5,
        "brownian": Noise(0, [0]).brownian((0.0, 1.0), 0, like),
    }
    correlation = np.corrcoef(torch.cat(list(streams.values())).numpy())
    assert np.abs(correlation - np.eye(len(streams))).max() < 4.5 / math.sqrt(n)


def test_seeds_count_modulo_two_to_the_64() -> None:
    like = torch.empty(1, 4)
    assert torch.equal(Noise(-1, [0]).normal(like), Noise(2**64 - 1, [0]).normal(like))


@pytest.mark.parametrize("like", [torch.empty(3, 2), torch.empty(())], ids=["batch", "scalar"])
def test_a_shape_that_does_not_fit_is_refused(like: Tensor) -> None:
    noise = Noise(0, range(2))
    for draw in (noise.normal, noise.uniform, lambda like: noise.brownian((0.0, 1.0), 0, like)):
        with pytest.raises(ValueError, match="keyed for 2 samples"):
            draw(like)


# Brownian paths


@pytest.mark.parametrize("clock", [even(50), (*(math.exp(0.4 * i) for i in range(50)), math.inf)],
                         ids=["even", "exponential to infinity"])  # fmt: skip
def test_increments_are_independent_standard_normals(clock: tuple[float, ...]) -> None:
    n = 20_000
    z = increments(clock, torch.empty(4, n // 4), Noise(2, range(4))).flatten(1).double()
    covariance = (z @ z.T / n).numpy()
    error = np.abs(covariance - np.eye(50))
    # 1,225 pairs with standard error 1/sqrt(n) and 50 variances with sqrt(2/n), at 5 standard errors.
    assert np.abs(error - np.diag(np.diag(error))).max() < 5 / math.sqrt(n)
    assert np.diag(error).max() < 5 * math.sqrt(2 / n)
    assert stats.kstest(z.flatten().numpy()[::7], "norm").pvalue > 1e-3


@st.composite
def refinements(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A clock of up to 70 intervals, perhaps to infinity, and one with every interval cut in two."""
    intervals = draw(st.integers(1, 70))
    lengths = draw(st.lists(st.floats(1e-3, 1e3), min_size=2 * intervals, max_size=2 * intervals))
    fine = [draw(st.floats(-5, 5)), *lengths]
    fine = list(np.cumsum(fine))
    if draw(st.booleans()):
        fine[-1] = math.inf
    fine = tuple(float(time) for time in fine)
    return fine[::2], fine


@settings(max_examples=60)
@given(refinements())
def test_halving_the_grid_refines_the_same_path(clocks: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    coarse, fine = clocks
    like = torch.empty(2, 3)
    wide = increments(coarse, like, Noise(6, range(2))).double()
    narrow = increments(fine, like, Noise(6, range(2))).double()
    for i, (a, b) in enumerate(pairwise(coarse)):
        middle = fine[2 * i + 1]
        if math.isinf(b):  # all of the infinite increment lies in the infinite half
            expected = narrow[2 * i + 1]
        else:
            left, right = math.sqrt((middle - a) / (b - a)), math.sqrt((b - middle) / (b - a))
            expected = left * narrow[2 * i] + right * narrow[2 * i + 1]
        torch.testing.assert_close(wide[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_repeated_halving_ends_on_the_same_path(times: int) -> None:
    like, steps = torch.empty(2, 3), 11 * 2**times
    coarse = increments(even(11), like, Noise(1, range(2)))
    fine = increments(even(steps), like, Noise(1, range(2)))
    summed = fine.unflatten(0, (11, 2**times)).sum(1) / math.sqrt(2**times)
    torch.testing.assert_close(coarse, summed, rtol=0, atol=1e-5)


def test_any_order_of_access_gives_the_same_path() -> None:
    like, clock = torch.empty(3, 4), even(600)  # more than one block
    path = increments(clock, like, Noise(0, range(3)))
    noise = Noise(0, range(3))
    for i in (599, 0, 300, 299, 300, 5, 598, 0):
        assert torch.equal(noise.brownian(clock, i, like), path[i])
    other = even(7)
    noise.brownian(other, 3, like)
    assert torch.equal(noise.brownian(clock, 42, like), path[42])


@pytest.mark.parametrize("numbers", [1, 200, 1 << 22])
def test_how_much_is_drawn_at_once_is_no_part_of_the_result(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    like, clock = torch.empty(3, 4), even(77)
    expected = increments(clock, like, Noise(0, range(3)))
    monkeypatch.setattr(noise_module, "_DRAWN_AT_ONCE", numbers)
    assert torch.equal(increments(clock, like, Noise(0, range(3))), expected)


@pytest.mark.parametrize("shape", [(8, 3), (8, 1), (8, 7, 5), (8, 1000)])
def test_a_path_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    like, clock = torch.empty(shape), even(37)
    whole = increments(clock, like, Noise(9, range(8)))
    for rows in (range(1), range(1, 4), range(4, 8), [7, 0, 3]):
        part = increments(clock, like[: len(rows)], Noise(9, range(8)).take(rows))
        assert torch.equal(part, whole[:, list(rows)])


@pytest.mark.parametrize(("few", "many"), [(10, 11), (20, 21), (50, 51), (63, 64), (30, 40)])
def test_neighbouring_step_counts_stay_close(few: int, many: int) -> None:
    like = torch.empty(1, 20_000)

    def integral(steps: int) -> Tensor:
        """Of cos(2 pi s) against the path: what a sampler's sensitivity to its noise looks like."""
        weights = torch.tensor([math.cos(2 * math.pi * i / steps) for i in range(steps)])
        return torch.einsum("n,nbe->be", weights, increments(even(steps), like, Noise(0, [0])))[0]

    correlation = torch.corrcoef(torch.stack([integral(few), integral(many)]))[0, 1].item()
    assert correlation > 0.9
