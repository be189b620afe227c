"""The training that tests share or launch in processes of its own: a network denoises a ring of points.

``train_script.py OUT [FIELD=VALUE ...]`` trains with these fields of `TrainConfig`. ``crash=SEED``: a child
trains, is killed with SIGKILL at a random moment, and again, until one comes to the end. ``stop=STEP``:
trains to the end in ``OUT/whole``, and in ``OUT/resumed``, where a SIGTERM comes in that step and it goes on.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from degauss.core.noise import Noise
from degauss.core.train import Interrupted, Shuffle, TrainConfig, Trained, latest_checkpoint, train

DEFAULTS: dict[str, Any] = {
    "steps": 24,
    "batch_size": 8,
    "lr": 1e-2,
    "warmup": 4,
    "weight_decay": 1e-2,
    "ema": 0.9,
    "clip": 1.0,
    "save_every": 3,
    "log_every": 4,
    "tracker": None,
    "device": "cpu",
}


def network(dropout: float = 0.1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def ring(samples: Sequence[int]) -> Tensor:
    """Points of the unit circle, 50 of them, in keyed order."""
    angle = 2 * torch.pi * torch.from_numpy(Shuffle(50, seed=3)(samples)) / 50
    return torch.stack([angle.cos(), angle.sin()], -1).float()


def denoising(net: nn.Module, x0: Tensor, noise: Noise) -> Tensor:
    """|net(alpha x0 + sigma eps, t) - x0|^2 of each sample; [batch]."""
    t = noise.uniform(x0[:, :1], 0)
    angle = t * torch.pi / 2
    x = angle.cos() * x0 + angle.sin() * noise.normal(x0, 1)
    return (net(torch.cat([x, t], -1)) - x0).square().mean(-1)


def config(out: Path, **fields: Any) -> TrainConfig:
    return TrainConfig(out, **{**DEFAULTS, **fields})


def run(
    out: Path, dropout: float = 0.1, at_step: Callable[[int], object] = lambda step: None, **fields: Any
) -> Trained:
    """Train; ``at_step(k)`` is called before step k."""
    wanted = config(out, **fields)

    def data(samples: Sequence[int]) -> Tensor:
        step, place = divmod(samples[0], wanted.batch_size)
        if place == 0:
            at_step(step)
        return ring(samples)

    return train(network(dropout), denoising, data, wanted)


def crash(out: Path, seed: int, **fields: Any) -> None:
    """Print from which steps the children set out."""
    # What training imports, once, so that a child's life is its training.
    for name in ("accelerate", "torch._dynamo", "torch.utils.data"):
        importlib.import_module(name)

    rng = random.Random(seed)
    starts: list[int] = []
    while True:
        start = latest_checkpoint(out)
        starts.append(int(start.name.removeprefix("step-")) if start else 0)
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            run(out, at_step=partial(_tell, begins), **fields)
            os._exit(0)
        os.close(begins)
        for _ in range(rng.randint(2, 5)):
            os.read(begun, 1)
        time.sleep(rng.uniform(0.0, 0.015))
        os.kill(child, signal.SIGKILL)
        os.close(begun)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            print(json.dumps(starts))
            sys.exit(os.WEXITSTATUS(status))


def _tell(pipe: int, step: int) -> None:
    os.write(pipe, b".")


def stop(out: Path, at: int, **fields: Any) -> None:
    """Print the step at which the run stopped."""

    def interrupt(step: int) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    run(out / "whole", **fields)
    try:
        run(out / "resumed", at_step=interrupt, **fields)
    except Interrupted as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(stopped.step))
    run(out / "resumed", **fields)


def main() -> None:
    torch.set_num_threads(1)
    out, *pairs = sys.argv[1:]
    fields = {name: ast.literal_eval(value) for name, value in (pair.split("=") for pair in pairs)}
    if "crash" in fields:
        crash(Path(out), fields.pop("crash"), **fields)
    elif "stop" in fields:
        stop(Path(out), fields.pop("stop"), **fields)
    else:
        run(Path(out), **fields)


if __name__ == "__main__":
    main()
