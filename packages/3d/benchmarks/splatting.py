"""Drawing Gaussians, ours and gsplat's: milliseconds forward and backward, and peak memory.

    python packages/3d/benchmarks/splatting.py [--gaussians N ...] [--sizes PIXELS ...] [--device cuda] [--repeats N]

A ball of slanted Gaussians with colours of degree 3 whose scales shrink as their number grows, seen by one camera.
"rgb" draws colour and alpha, "all" depth and normals too. gsplat (where it is installed and built) is asked for rgb
through its own `rasterization`. On a GPU times are of CUDA events, medians after warming up, and memory is what the
allocator held at most beyond the parameters; on a CPU they are CPU seconds of one thread, and memory is not measured.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed import splatting_gsplat, tiers
from degauss.threed.cameras import Cameras
from degauss.threed.projection import Cloud
from degauss.threed.tiers import TORCH, Tier

Draw = Callable[[Cloud, Cameras], Tensor]
_TORCH_MOST = 100_000
"""Plain torch is for the CPU; on a GPU it is shown up to this many."""


def scene(count: int, device: torch.device) -> Cloud:
    noise = Noise(0, [0])

    def normal(draw: int, *shape: int) -> Tensor:
        return noise.normal(torch.empty(1, count, *shape), draw)[0].to(device)

    directions = torch.nn.functional.normalize(normal(0, 3), dim=-1)
    radii = 0.5 * noise.uniform(torch.empty(1, count, 1), 1)[0].to(device) ** (1 / 3)
    log_scales = math.log(0.4 * count ** (-1 / 3)) + 0.5 * normal(2, 3)
    parts = (radii * directions, log_scales, normal(3, 4), 1.5 * normal(4), 0.2 * normal(5, 16, 3))
    return Cloud(*(part.requires_grad_() for part in parts))


def ours(tier: Tier, channels: int) -> Draw:
    def draw(cloud: Cloud, cameras: Cameras) -> Tensor:
        footprints = tier.project(cloud, cameras)
        some = footprints._replace(features=footprints.features[..., :channels])
        return tier.rasterise(some, cameras.height, cameras.width)[0]

    return draw


def gsplats(cloud: Cloud, cameras: Cameras) -> Tensor:
    from gsplat import rasterization  # pyright: ignore[reportMissingImports]

    view, intrinsics = splatting_gsplat.cameras_of(cameras)
    opacities, scales = torch.sigmoid(cloud.opacity_logits), cloud.log_scales.exp()
    arguments: dict[str, Any] = {"sh_degree": 3, "packed": False}
    return rasterization(
        cloud.means, cloud.quaternions, scales, opacities, cloud.sh, view, intrinsics, cameras.width, cameras.height,
        **arguments,
    )[0]  # fmt: skip


def ways(device: torch.device, count: int) -> dict[str, Draw]:
    found: dict[str, Draw] = {}
    if device.type != "cuda" or count <= _TORCH_MOST:
        found |= {"torch, rgb": ours(TORCH, 3), "torch, all": ours(TORCH, 7)}
    if device.type == "cuda":
        found |= {"Triton, rgb": ours(tiers.triton(), 3), "Triton, all": ours(tiers.triton(), 7)}
        if splatting_gsplat.available():
            found["gsplat, rgb"] = gsplats
    return found


class Measured(NamedTuple):
    forward: float
    both: float
    memory: float
    """Milliseconds, and MiB."""


def measured(draw: Draw, cloud: Cloud, cameras: Cameras, repeats: int) -> Measured:
    times: list[tuple[float, float]] = []
    cuda = cameras.device.type == "cuda"
    memory = math.nan
    for i in range(repeats + 3):
        if cuda and i == 3:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            memory = -torch.cuda.memory_allocated() / 2**20
        clock = _Clock(cuda)
        image = draw(cloud, cameras)
        clock.mark()
        torch.autograd.grad(image.square().mean(), list(cloud))
        clock.mark()
        if i >= 3:
            times.append(clock.read())
    if cuda:
        memory += torch.cuda.max_memory_allocated() / 2**20
    forward, both = (statistics.median(part) for part in zip(*times, strict=True))
    return Measured(forward, both, memory)


class _Clock:
    """Two marks after a start, in milliseconds since it."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.process_time())

    def read(self) -> tuple[float, float]:
        start, *others = self.marks
        if self.cuda:
            torch.cuda.synchronize()
            first, second = (start.elapsed_time(other) for other in others)
        else:
            first, second = (1e3 * (other - start) for other in others)
        return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--gaussians", type=int, nargs="+", default=[10_000, 100_000, 1_000_000] if cuda else [2000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024] if cuda else [64, 128])
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--repeats", type=int, default=20 if cuda else 5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one thread of the CPU"
    columns = (
        "Gaussians",
        "pixels",
        "way",
        "forward, ms",
        "forward and backward, ms",
        "peak, MiB",
        "of gsplat's speed",
    )
    table = Table(*columns, title=name)
    for count in arguments.gaussians:
        cloud = scene(count, device)
        for size in arguments.sizes:
            cameras = Cameras.orbit(30.0, 20.0, 2.2, 40.0, size).to(device)
            found = {
                way: measured(draw, cloud, cameras, arguments.repeats) for way, draw in ways(device, count).items()
            }
            peer = found.get("gsplat, rgb")
            for way, (forward, both, memory) in found.items():
                ratio = "" if peer is None else f"{peer.both / both:.2f} x"
                peak = "" if math.isnan(memory) else f"{memory:.0f}"
                cells = (f"{count}", f"{size}", way, f"{forward:.2f}", f"{both:.2f}", peak, ratio)
                table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
