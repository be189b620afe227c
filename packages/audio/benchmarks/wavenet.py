"""The denoiser's step here and written straightforwardly: equal sizes and weights, one thread, in one run.

    python packages/audio/benchmarks/wavenet.py [--channels 128] [--layers 10] [--frames 300] [--repeats 30]

The straightforward network is the published one as its formulas read: every layer projects the condition and the step
embedding by itself, at every step. Time is CPU time of one thread, the two take turns, and the least of the repeats
counts, so a busy machine does little harm. Both must give the same output to 1e-5.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.audio.wavenet import WaveNet, WaveNetConfig
from degauss.core.nets.embedding import sinusoidal


class PlainLayer(nn.Module):
    """A residual layer with a conditioner and a step projection of its own."""

    def __init__(self, config: WaveNetConfig, dilation: int) -> None:
        super().__init__()
        channels = config.channels
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=dilation, dilation=dilation)
        self.diffusion_projection = nn.Linear(channels, channels)
        self.conditioner_projection = nn.Conv1d(config.condition, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, condition: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.diffusion_projection(step).unsqueeze(-1)
        y = self.dilated_conv(y) + self.conditioner_projection(condition)
        gate, value = torch.chunk(y, 2, dim=1)
        y = self.output_projection(torch.sigmoid(gate) * torch.tanh(value))
        residual, skip = torch.chunk(y, 2, dim=1)
        return (x + residual) / math.sqrt(2.0), skip


class PlainWaveNet(nn.Module):
    """The published network, straightforwardly: ``(x, t, condition) -> [batch, mels, frames]``."""

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.config = config
        self.input_projection = nn.Conv1d(config.mels, channels, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.residual_layers = nn.ModuleList(PlainLayer(config, 2 ** (i % config.cycle)) for i in range(config.layers))
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, config.mels, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        x = F.relu(self.input_projection(x))
        step = self.mlp(sinusoidal(t.reshape(-1) * self.config.steps - 1, self.config.channels))
        skips: list[Tensor] = []
        for layer in self.residual_layers:
            x, skip = layer(x, condition, step)
            skips.append(skip)
        x = torch.sum(torch.stack(skips), dim=0) / math.sqrt(len(skips))
        return self.output_projection(F.relu(self.skip_projection(x)))

    @classmethod
    def like(cls, network: WaveNet) -> PlainWaveNet:
        """The same weights, each layer's rows of the joined projections given back to it."""
        layers = network.config.layers
        plain = cls(network.config).to(network.skip_projection.weight.dtype)
        state: dict[str, Tensor] = network.state_dict()
        joined = ("diffusion_projection", "conditioner_projection")
        for name in [name for name in state if name.split(".")[0] in joined]:
            for layer, rows in enumerate(state.pop(name).chunk(layers)):
                state[f"residual_layers.{layer}.{name}"] = rows
        plain.load_state_dict(state)
        return plain


def least(works: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """The least CPU seconds of each, taking turns."""
    best = dict.fromkeys(works, math.inf)
    for _ in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    return best


@torch.inference_mode()
def compare(config: WaveNetConfig, frames: int, repeats: int) -> tuple[dict[str, float], float]:
    """CPU seconds of a step of each (and of what is done once a run), and the largest difference of the outputs."""
    torch.manual_seed(0)
    # As the loop of a run does: after this, glibc keeps the blocks that are freed.
    torch.empty(31 << 20, dtype=torch.uint8)
    network = WaveNet(config).eval()
    nn.init.normal_(network.output_projection.weight, std=0.1)
    plain = PlainWaveNet.like(network).eval()
    x, condition = torch.randn(1, config.mels, frames), torch.randn(1, config.condition, frames)
    t, projected = torch.tensor(0.37), network.project(condition)
    seconds = least(
        {
            "straightforward, a step": lambda: plain(x, t, condition),
            "here, a step": lambda: network(x, t, projected),
            "here, once a run": lambda: network.project(condition)[0],
        },
        repeats,
    )
    found, expected = network(x, t, projected), plain(x, t, condition)
    return seconds, float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("channels", 128), ("layers", 10), ("frames", 300), ("cycle", 1), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = WaveNetConfig(80, arguments.channels, arguments.channels, arguments.layers, arguments.cycle)
    seconds, difference = compare(config, arguments.frames, arguments.repeats)
    for name, spent in seconds.items():
        print(f"{name:26} {1000 * spent:8.2f} ms")
    ratio = seconds["straightforward, a step"] / seconds["here, a step"]
    print(f"{'faster by':26} {ratio:8.2f} x")
    print(f"{'largest difference':26} {difference:8.1e} of the largest output")
    if difference > 1e-5:
        raise SystemExit("the outputs differ by more than 1e-5")


if __name__ == "__main__":
    main()
