from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from degauss.core.checkpoint import load_tree
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.train import (
    Diverged,
    Interrupted,
    Shuffle,
    TrainConfig,
    Trained,
    latest_checkpoint,
    learning_rate,
    remember,
    train,
)

sys.path.insert(0, str(Path(__file__).parent))
import train_script
from train_script import config, denoising, network, ring, run

FILES = ("model.safetensors", "ema.safetensors", "state.safetensors", "state.json", "train.json")


# From Python 3.12 on, a fork beside other threads warns; torch's loader forks.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def launch(*arguments: object, processes: int = 1) -> Any:
    """Run the training script and return what it printed."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [train_script.__file__, *map(str, arguments)]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


def metrics(out: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what differs from run to run."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return lines


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, average, optimizer and metrics, all bit for bit."""
    one, two = latest_checkpoint(a), latest_checkpoint(b)
    assert one is not None
    assert two is not None
    assert one.name == two.name
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert metrics(a) == metrics(b)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def stopping(step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), number)

    return at


def failing(step: int) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == step:
            raise RuntimeError("power cut")

    return at


# --- exact resume ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_at_random_moments_a_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", save_every=1000)
    starts = launch(tmp_path / "killed", "crash=5", "save_every=1")
    assert len(set(starts)) > 4, "too few kills fell between the first step and the last"
    assert starts == sorted(starts)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()) == [
        "step-00000023",
        "step-00000024",
    ]


@forks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "fields",
    [
        {"log_every": 7, "save_every": 5},
        {"precision": "bf16", "accumulate": 2},
        {"schedule": "constant", "ema": 0.0, "clip": None, "workers": 1},
    ],
    ids=["plain", "bf16", "workers"],
)
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: int, fields: dict[str, Any]) -> None:
    before = signal.getsignal(number)
    uses_files = FILES if fields.get("ema", 1) else [name for name in FILES if name != "ema.safetensors"]
    run(tmp_path / "whole", **fields)
    if fields.get("workers"):  # the data are in a process of their own: signal from the loss instead
        with pytest.raises(Interrupted) as stopped:
            _signal_in_loss(tmp_path / "cut", number, 11, **fields)
    else:
        with pytest.raises(Interrupted) as stopped:
            run(tmp_path / "cut", at_step=stopping(10, number), **fields)
    assert stopped.value.step == 11
    assert stopped.value.exit_code == 128 + number
    assert "step-00000011" in str(stopped.value)
    assert signal.getsignal(number) is before
    run(tmp_path / "cut", **fields)
    whole, cut = latest_checkpoint(tmp_path / "whole"), latest_checkpoint(tmp_path / "cut")
    assert whole is not None
    assert cut is not None
    for name in uses_files:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def _signal_in_loss(out: Path, number: int, calls: int, **fields: Any) -> None:
    count = 0

    def loss(net: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
        nonlocal count
        count += 1
        if count == calls:
            os.kill(os.getpid(), number)
        return denoising(net, x0, noise)

    train(network(), loss, ring, config(out, **fields))


def test_lines_after_the_last_checkpoint_are_written_anew(tmp_path: Path) -> None:
    run(tmp_path / "whole", log_every=1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", log_every=1, at_step=failing(11))
    assert metrics(tmp_path / "cut")[-1]["step"] == 11  # the last checkpoint is of step 9
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    run(tmp_path / "cut", log_every=1)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_is_not_run_again_and_can_be_made_longer(tmp_path: Path) -> None:
    first = run(tmp_path / "run", schedule="constant", steps=12)
    again = run(tmp_path / "run", schedule="constant", steps=12, at_step=lambda step: pytest.fail("trained"))
    assert again.step == 12
    assert distance(first.weights, again.weights) == 0
    run(tmp_path / "run", schedule="constant", steps=24)
    run(tmp_path / "whole", schedule="constant", steps=24)
    one, two = latest_checkpoint(tmp_path / "run"), latest_checkpoint(tmp_path / "whole")
    assert one is not None
    assert two is not None
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_directory_remembers_what_is_trained_in_it(tmp_path: Path) -> None:
    about: dict[str, Any] = {"words": ("spot", "mug"), "size": 32, "rate": 0.1}
    remember(tmp_path / "run", "a prior", about)
    remember(tmp_path / "run", "a prior", about)
    sentence = r"run holds the training of a prior with size = 32, but size = 64 is asked for: ask for the same or"
    with pytest.raises(InputError, match=sentence):
        remember(tmp_path / "run", "a prior", about | {"size": 64})
    with pytest.raises(InputError, match="depth = None, but depth = 2"):
        remember(tmp_path / "run", "a prior", about | {"depth": 2})
    remember(tmp_path / "run", "a prior", about)


def test_moments_keep_the_layout_of_their_weights(tmp_path: Path) -> None:
    """A resumed channels_last network has channels_last moments, on which its kernels are chosen."""
    seen: list[bool] = []

    def images(samples: Sequence[int]) -> Tensor:
        return Noise(1, samples).normal(torch.empty(len(samples), 3, 4, 4))

    def loss(net: nn.Module, x: Tensor, noise: Noise) -> Tensor:
        return net(x).square().mean((1, 2, 3))

    def adam(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        made = torch.optim.Adam(net.parameters(), lr=config.lr)

        def look(*_: object) -> None:
            state = made.state[next(net.parameters())]
            seen.extend([state["exp_avg"].is_contiguous(memory_format=torch.channels_last)] if state else [])

        made.register_step_pre_hook(look)
        return made

    for steps in (2, 4):
        net = nn.Conv2d(3, 4, 3)
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        config = TrainConfig(tmp_path, steps=steps, batch_size=4, tracker=None, device="cpu")
        train(net, loss, images, config, optimizer=adam)
    assert seen == [True, True, True]


def test_there_is_no_pickle_in_a_run(tmp_path: Path) -> None:
    run(tmp_path / "run", tracker="tensorboard")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    kinds = {path.suffix if not path.name.startswith("events.out.tfevents") else "tfevents" for path in files}
    assert kinds == {".safetensors", ".json", ".jsonl", "tfevents"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".safetensors":
            assert load_file(path)


def test_tensorboard_shows_what_the_metrics_say(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fields: dict[str, Any] = {"tracker": "tensorboard", "log_every": 1}
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", at_step=failing(11), **fields)
    run(tmp_path / "run", **fields)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert len(shown) == 24
    assert shown == [(line["step"], line["loss"]) for line in metrics(tmp_path / "run")]


# --- one training, however it is divided ---


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Under torchrun: the same weights as one process, and stopped by a signal and resumed the same bits."""
    stopped = launch(tmp_path, "stop=9", "dropout=0.0", processes=2)
    assert 10 <= stopped <= 12  # both processes must hear of it
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    alone = run(tmp_path / "alone", dropout=0.0)
    together = latest_checkpoint(tmp_path / "whole")
    assert together is not None
    assert distance(alone.weights, load_file(together / "ema.safetensors")) < 1e-6
    for one, two in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "whole"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, accumulate: int) -> None:
    whole = run(tmp_path / "whole", dropout=0.0)
    parts = run(tmp_path / "parts", dropout=0.0, accumulate=accumulate)
    assert 0 <= distance(whole.weights, parts.weights) < 1e-6
    other = run(tmp_path / "other", dropout=0.0, seed=1)
    assert distance(whole.weights, other.weights) > 1e-3


@forks
def test_workers_give_the_same_batches(tmp_path: Path) -> None:
    run(tmp_path / "here")
    run(tmp_path / "there", workers=2)
    assert_same_run(tmp_path / "here", tmp_path / "there")


def test_a_sample_has_its_noise_wherever_it_is_trained_on(tmp_path: Path) -> None:
    seen: dict[int, dict[int, float]] = {}

    for accumulate in (1, 4):
        rows = seen[accumulate] = {}

        def loss(net: nn.Module, samples: Tensor, noise: Noise, rows: dict[int, float] = rows) -> Tensor:
            drawn = noise.normal(samples[:, None].float())
            rows.update(zip(samples.tolist(), drawn[:, 0].tolist(), strict=True))
            return net(drawn).square()

        config = TrainConfig(
            tmp_path / str(accumulate),
            steps=3,
            batch_size=8,
            accumulate=accumulate,
            tracker=None,
            device="cpu",
        )
        train(nn.Linear(1, 1), loss, lambda samples: torch.tensor(list(samples)), config)
    assert sorted(seen[1]) == list(range(24))
    assert seen[1] == seen[4]
    assert len(set(seen[1].values())) == 24


def test_the_callers_randomness_and_network_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    net = network().eval()
    names = set(vars(net))
    settings = config(tmp_path / "a", precision="bf16")
    train(net, denoising, ring, settings)
    assert torch.equal(torch.rand(3), expected)
    assert set(vars(net)) == names
    assert not net.training
    # and it can be trained again, in another precision
    train(net, denoising, ring, replace(settings, out=tmp_path / "b", precision="no"))


# --- data ---


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 4))
def test_each_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    items = Shuffle(size, seed)(range(epoch * size, (epoch + 1) * size))
    assert sorted(items.tolist()) == list(range(size))


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    shuffle = Shuffle(100, seed=7)
    whole = shuffle(range(300))
    assert np.concatenate([shuffle(range(i, i + 60)) for i in range(0, 300, 60)]).tolist() == whole.tolist()
    assert len({tuple(whole[i : i + 100]) for i in (0, 100, 200)} | {tuple(Shuffle(100, 8)(range(100)))}) == 4
    # Every item is equally likely at every place: chi-squared with 9 degrees of freedom over 3000 epochs.
    counts = np.bincount(Shuffle(10)(range(0, 30000, 10)), minlength=10)
    assert ((counts - 300) ** 2 / 300).sum() < 27.9  # p = 0.001
    with pytest.raises(InputError, match="number of training items must be at least 1"):
        Shuffle(0)


# --- what a step computes ---


def _line(out: Path, steps: int, **fields: Any) -> tuple[Trained, list[float]]:
    """Train one weight on a loss of slope 1 by plain SGD, so that w_k = 1 - sum of the learning rates."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    path: list[float] = []

    def loss(net: nn.Module, x: Tensor, noise: Noise) -> Tensor:
        path.append(next(net.parameters()).item())
        return net(x)[:, 0]

    def sgd(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=config.lr)

    values = {"lr": 0.1, "warmup": 0, "ema": 0.0, "clip": None, "log_every": 1}
    settings = config(out, steps=steps, **{**values, **fields})
    return train(net, loss, lambda samples: torch.ones(len(samples), 1), settings, optimizer=sgd), path


def test_the_average_has_its_closed_form(tmp_path: Path) -> None:
    d, steps = 0.8, 12
    done, _ = _line(tmp_path / "flat", steps, schedule="constant", ema=d, ema_warmup=False)
    expected = d**steps + (1 - d) * sum(d ** (steps - k) * (1 - 0.1 * k) for k in range(1, steps + 1))
    assert done.weights["weight"].item() == pytest.approx(expected, abs=1e-6)
    # With the warm-up d_k = (1 + k)/(10 + k), until the decay is reached.
    average = 1.0
    for k in range(steps):
        average += (1 - min(0.4, (1 + k) / (10 + k))) * (1 - 0.1 * (k + 1) - average)
    done, _ = _line(tmp_path / "rising", steps, schedule="constant", ema=0.4)
    assert done.weights["weight"].item() == pytest.approx(average, abs=1e-6)


def test_the_schedule_and_the_clip_are_what_they_say(tmp_path: Path) -> None:
    config = TrainConfig(tmp_path, steps=14, warmup=4, schedule="cosine")
    rates = [learning_rate(config, step) for step in range(15)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.5)
    assert rates[14] == pytest.approx(0.0)
    _, path = _line(tmp_path / "cosine", 14, warmup=4, clip=None)
    assert path == pytest.approx([1 - 0.1 * sum(rates[:k]) for k in range(14)], abs=1e-6)
    _, path = _line(tmp_path / "clipped", 5, schedule="constant", clip=0.5)
    assert path == pytest.approx([1 - 0.05 * k for k in range(5)], abs=1e-6)
    lines = metrics(tmp_path / "clipped")
    assert [line["grad_norm"] for line in lines] == pytest.approx([1.0] * 5)  # before the clip
    assert [line["loss"] for line in lines] == pytest.approx(path, abs=1e-6)


def test_the_average_is_kept_in_float32_and_under_every_name_of_a_tied_weight(tmp_path: Path) -> None:
    one, two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    two.weight = nn.init.ones_(one.weight)
    net = nn.Sequential(one, two).bfloat16()

    def ones(samples: Sequence[int]) -> Tensor:
        return torch.ones(len(samples), 1).bfloat16()

    done = train(net, lambda net, x, noise: (net(x).float() + 3).square(), ones, config(tmp_path))
    path = latest_checkpoint(tmp_path)
    assert path is not None
    average = load_file(path / "ema.safetensors")
    assert average["0.weight"].dtype == torch.float32
    assert torch.equal(average["0.weight"], average["1.weight"])
    assert done.weights["1.weight"].dtype == torch.bfloat16
    assert not torch.equal(average["0.weight"], load_file(path / "model.safetensors")["0.weight"].float())


def test_evaluation_sees_the_average_and_changes_nothing(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def evaluate(net: nn.Module) -> dict[str, float]:
        assert not net.training
        seen.append(net.state_dict()["0.weight"].clone())
        return {"chance": float(torch.rand(())), "bad": math.nan}

    settings = config(tmp_path / "a", evaluate_every=8)
    done = train(network(), denoising, ring, settings, evaluate=evaluate)
    run(tmp_path / "b")
    assert torch.equal(seen[-1], done.weights["0.weight"])
    assert len(seen) == 3
    lines = metrics(tmp_path / "a")
    assert [line["step"] for line in lines if "chance" in line] == [8, 16, 24]
    assert all(line["bad"] is None for line in lines if "chance" in line)
    assert [line for line in lines if "chance" not in line] == metrics(tmp_path / "b")


# --- errors ---


@pytest.mark.parametrize(("what", "log_every"), [("loss", 4), ("gradient", 4), ("loss", 1)])
def test_a_number_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path, what: str, log_every: int) -> None:
    def loss(net: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
        value = denoising(net, x0, noise)
        if noise.samples[0] != 8 * 9:  # step 10
            return value
        # The root of 0 is a number, its derivative is not.
        return value + (value - value).sqrt() if what == "gradient" else value / 0

    settings = config(tmp_path, log_every=log_every)

    with pytest.raises(Diverged, match=rf"The {what} is not finite at step 10; .*step-00000009") as error:
        train(network(), loss, ring, settings)
    assert "\n" not in str(error.value)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "step-00000009"
    assert all(bool(value.isfinite().all()) for value in load_file(path / "model.safetensors").values())
    load_tree(path, "state")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, but is 0"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"lr": math.nan}, "lr must be at least 0, but is nan"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), but is 1.0"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"accumulate": 3}, "batch_size must be a multiple of processes x accumulate = 1 x 3, but is 8"),
        ({"precision": "fp16"}, "precision 'fp16' needs a GPU"),
    ],
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(tmp_path, **fields)


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=6)
    settings = config(tmp_path, steps=12)
    with pytest.raises(InputError, match=r"holds a run already .step-00000006.: resume it"):
        train(network(), denoising, ring, settings, resume=False)
    with pytest.raises(InputError, match=r"was trained with lr = 0\.01, but lr = 0\.5 is asked for"):
        train(network(), denoising, ring, replace(settings, lr=0.5))
    with pytest.raises(InputError, match="does not fit the network"):
        train(nn.Linear(3, 2), denoising, ring, settings)

    def sgd(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [weight]} for weight in net.parameters()])

    with pytest.raises(InputError, match=r"state\.json does not fit this run"):
        train(network(), denoising, ring, settings, optimizer=sgd)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    data = (path / "state.safetensors").read_bytes()
    (path / "state.safetensors").write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"state\.safetensors is cut short"):
        train(network(), denoising, ring, settings)


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_run_on_a_gpu_resumes_exactly(tmp_path: Path, precision: str) -> None:
    fields: dict[str, Any] = {"device": "auto", "precision": precision}
    run(tmp_path / "whole", **fields)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", at_step=stopping(9), **fields)
    run(tmp_path / "cut", **fields)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu(tmp_path: Path) -> None:
    settings = config(tmp_path, device="auto", log_every=99, save_every=99)

    def loss(net: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
        # From the third step on (the first ones set up), until the last, which logs.
        quiet = 2 * 8 <= noise.samples[0] < 23 * 8
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        x = x0 + noise.normal(x0)
        return net(torch.cat([x, x[:, :1]], -1)).square().mean(-1)

    try:
        train(network(), loss, ring, settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
