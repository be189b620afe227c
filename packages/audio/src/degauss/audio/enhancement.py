r"""Speech enhancement: a predictive model, SGMSE+, and StoRM, which is SGMSE+ started from the predictive model.

All work on compressed complex spectra, of the clean sound x and the noisy one y, both divided by max|y|:

    predictive   D(y), trained with |x - D(y)|^2 / 2, or also with (|x| - |D(y)|)^2 bin by bin;
    SGMSE+       a diffusion model of x around mu = y: x_t = mu + alpha (x - mu) + sigma eps with OUVE's scales, whose
                 network is shown [x_t, y]; sampled from mu + sigma eps at t = 1 down to t_eps, and one step to 0;
    StoRM        the same around mu = D(y), shown [x_t, y, D(y)]; both networks trained jointly with
                 J = |x - D(y)|^2 / 4 + |sigma s + eps|^2 / 4 after the predictive one has been trained alone.

Which one a model is follows from the networks it has. The predictive one is NCSN++, as published, or a recurrent mask
(`masker`), which learns in a fraction of the time. A diffusion network is used in one of two ways. Published
(``score``): s = -network([x_t, ...], log t) / t. Preconditioned (``residual``, the default): EDM's formulas on
z = x - mu of standard deviation ``spread``, so that a network that says nothing returns mu, and one that is trained for
minutes is of use. Losses are means over the spectrum, not sums: a factor that Adam does not see.

The peaks of the result are not those of the input and may pass full scale; who writes a file must look.

References: Richter et al. 2023, "Speech Enhancement and Dereverberation with Diffusion-Based Generative Models";
Lemercier et al. 2023, "StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and
Dereverberation" (both IEEE/ACM TASLP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from degauss.audio.masker import Masker, MaskerConfig
from degauss.audio.spectra import Compressed, magnitudes
from degauss.core.checkpoint import as_tuples, load_frozen, save_model
from degauss.core.denoiser import Denoiser, Karras, NetworkDenoiser, Prediction, Score, expand
from degauss.core.errors import InputError, check_range
from degauss.core.gaussian import dpmpp
from degauss.core.nets.ncsnpp import SMALL, NCSNpp, NCSNppConfig
from degauss.core.noise import Noise
from degauss.core.posterior import Point
from degauss.core.process.centred import CentredNetwork, perturb, sample_centred
from degauss.core.process.mean_reverting import OUVE
from degauss.core.sampling import Solver

KIND = "degauss.audio/enhancer"
SHIPPED = Path(__file__).parent / "weights" / "enhancer"
"""The model that comes with the package."""

Parametrisation = Literal["residual", "score"]
Method = Literal["predictive", "sgmse", "storm"]
Report = Callable[[], None]
# A draw of a chunk has its own noise: this many draws fit between two chunks.
_DRAWS = 1 << 16


class Pairs(NamedTuple):
    """A training batch: noisy and clean sound, float32 ``[batch, n]``, of one scale."""

    noisy: Tensor
    clean: Tensor


@dataclass(frozen=True)
class EnhancerConfig:
    """What an enhancer is.

    ``rate``: Hz. ``predictive``, ``score``: the networks; one alone is a predictive model or SGMSE+, both are StoRM.
    ``by_magnitude``: the share of the predictive network's loss that compares magnitudes and not phases, 0 as
    published, `masker.MASK_LOSS` for a mask. ``t_eps``: the smallest time that is trained and sampled.
    ``spread``: standard deviation of x - mu (see the module); training measures it.
    """

    rate: int = 16000
    spectrum: Compressed = field(default_factory=Compressed)
    predictive: NCSNppConfig | MaskerConfig | None = SMALL
    score: NCSNppConfig | None = SMALL
    by_magnitude: float = 0.0
    process: OUVE = field(default_factory=OUVE)
    t_eps: float = 0.03
    parametrisation: Parametrisation = "residual"
    spread: float = 0.1

    def __post_init__(self) -> None:
        check_range("rate", self.rate, 1000)
        if self.predictive is None and self.score is None:
            raise InputError("an enhancer needs a predictive network, a score network, or both; it has neither.")
        check_range("by_magnitude", self.by_magnitude, 0, 1)
        if not 0 < self.t_eps < 1:
            raise InputError(f"t_eps must be in (0, 1), but is {self.t_eps}.")
        if not self.spread > 0:
            raise InputError(f"spread must be above 0, but is {self.spread}.")

    @property
    def method(self) -> Method:
        if self.score is None:
            return "predictive"
        return "sgmse" if self.predictive is None else "storm"

    @property
    def prediction(self) -> Prediction:
        return Score() if self.parametrisation == "score" else Karras(self.spread)


def spectrum_for(rate: int) -> Compressed:
    """Frames of 32 ms, a new one every 8 ms, an even number of bins: (510, 128) at 16 kHz, (254, 64) at 8 kHz."""
    hop = round(0.008 * rate)
    return Compressed(n_fft=4 * hop - 2, hop=hop)


class Networks(nn.Module):
    """The networks of an enhancer. Called with what a step of training needs, so that it may be distributed."""

    def __init__(self, config: EnhancerConfig) -> None:
        super().__init__()
        self.config = config
        shown = 4 if config.predictive is None else 6
        self.predictive = _predictive(config)
        self.score = None if config.score is None else NCSNpp(config.score, shown)

    def forward(self, clean: Tensor, noisy: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor | None, Tensor | None]:
        """Spectra ``[b, 2, bins, frames]`` and times ``[b]`` -> D(y), and the error of the diffusion network.

        The latter is F - (u z0 + w eps) for the prediction's (u, w), times sigma for a score. Gradients reach D(y)
        through both, as published.
        """
        estimate = None if self.predictive is None else self.predictive(noisy)
        if self.score is None:
            return estimate, None
        config = self.config
        mu = noisy if estimate is None else estimate
        x, eps = perturb(config.process, clean, mu, t, noise)
        alpha, sigma = config.process(t)
        u, w = (expand(weight, clean) for weight in config.prediction.target(alpha, sigma))
        told = self.told(x, mu, t, self.shown(noisy, estimate))
        if config.parametrisation == "score":
            return estimate, expand(sigma, clean) * told + eps
        return estimate, told - u * (clean - mu) - w * eps

    def shown(self, noisy: Tensor, estimate: Tensor | None) -> Tensor:
        """What the diffusion network is shown beside the state: the same at every step of a run."""
        return noisy if estimate is None else torch.cat((noisy, estimate), dim=1)

    def told(self, x: Tensor, mu: Tensor, t: Tensor, shown: Tensor) -> Tensor:
        """F of the state x at times ``t`` (0-d or ``[b]``)."""
        if self.config.parametrisation == "score":
            return self.by_score(x, t, shown=shown)
        alpha, sigma = self.config.process(t)
        factor, level = self.config.prediction.network_input(alpha, sigma, t)
        z = x - mu
        return self.by_residual(z if factor is None else expand(factor, z) * z, level.to(z.dtype), shown=shown)

    def by_score(self, x: Tensor, t: Tensor, *, shown: Tensor) -> Tensor:
        """The published score of a state ``[b, 2, bins, frames]``."""
        assert self.score is not None
        t = t.to(x.dtype)
        return -self.score(_beside(x, shown), t.log()) / expand(t, x)

    def by_residual(self, z: Tensor, level: Tensor, *, shown: Tensor) -> Tensor:
        """The prediction for a state z of unit variance at EDM's noise level."""
        assert self.score is not None
        return self.score(_beside(z, shown), level)


def _predictive(config: EnhancerConfig) -> nn.Module | None:
    match config.predictive:
        case None:
            return None
        case MaskerConfig():
            return Masker(config.predictive, config.spectrum.bins)
        case NCSNppConfig():
            return NCSNpp(config.predictive, 2, noisy=False)


def _beside(x: Tensor, shown: Tensor) -> Tensor:
    """Both as channels; one example of what is shown serves all draws."""
    return torch.cat((x, shown.expand(len(x), -1, -1, -1)), dim=1)


@dataclass(frozen=True, eq=False)
class Around:
    """The denoiser of x = mu + z for a denoiser of z."""

    denoiser: Denoiser[Point]
    mu: Tensor

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        return Point(self.mu + self.denoiser(x - self.mu, t, **cond).mean)


class Given(NamedTuple):
    """A noisy spectrum made ready for sampling: mu, the denoiser around it, and D(y) where there is one."""

    mu: Tensor
    denoiser: Denoiser[Point]
    estimate: Tensor | None


@dataclass(frozen=True, eq=False)
class Enhancer:
    """A model: its configuration and its networks."""

    config: EnhancerConfig
    network: Networks = field(repr=False)

    @classmethod
    def new(cls, config: EnhancerConfig, seed: int = 0) -> Enhancer:
        """A freshly initialised model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, Networks(config))

    @classmethod
    def load(cls, path: str | Path) -> Enhancer:
        """A saved model, frozen, in eval mode; `InputError` for anything that is not one."""
        return load_frozen(path, KIND, "an enhancer", lambda values: cls.new(_config(values))).frozen()

    def frozen(self) -> Enhancer:
        """This model in eval mode without gradients, its weights laid out as convolutions want them on a CPU."""
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return self

    def save(self, path: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model as a directory, with the given weights instead of the network's own if there are any."""
        save_model(path, self.network if weights is None else weights, KIND, asdict(self.config))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def loss(self, network: nn.Module, batch: Pairs, noise: Noise) -> Tensor:
        """J of the module for each pair, ``[batch]``; t is uniform on [t_eps, 1]."""
        peak = batch.noisy.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        clean, noisy = (self.config.spectrum.encode(wave / peak) for wave in (batch.clean, batch.noisy))
        u = noise.uniform(torch.empty(len(clean), dtype=torch.float64, device=clean.device), draw=1)
        estimate, error = network(clean, noisy, 1 - (1 - self.config.t_eps) * u, noise)
        parts = [] if estimate is None else [self._missed(clean, estimate)]
        if error is not None:
            parts.append(0.5 * error.square().flatten(1).mean(1))
        return torch.stack(parts).mean(0)

    def _missed(self, clean: Tensor, estimate: Tensor) -> Tensor:
        """The loss of a predictive network, ``[batch]``."""
        share = self.config.by_magnitude
        errors = (1 - share) * (clean - estimate).square().sum(1)
        errors += share * (magnitudes(clean) - magnitudes(estimate)).square()
        return 0.25 * errors.flatten(1).mean(1)

    def given(self, noisy: Tensor) -> Given:
        """What sampling needs of noisy spectra ``[b, 2, bins, frames]``, computed once for a run."""
        config, network = self.config, self.network
        estimate = None if network.predictive is None else network.predictive(noisy)
        mu = noisy if estimate is None else estimate
        shown = network.shown(noisy, estimate)
        if config.parametrisation == "score":
            by_score = partial(network.by_score, shown=shown)
            return Given(mu, CentredNetwork(by_score, config.process, config.prediction, mu), estimate)
        by_residual = partial(network.by_residual, shown=shown)
        return Given(mu, Around(NetworkDenoiser(by_residual, config.process, config.prediction), mu), estimate)


def _config(values: dict[str, Any]) -> EnhancerConfig:
    predictive, score = values.pop("predictive"), values.pop("score")
    return EnhancerConfig(
        spectrum=Compressed(**values.pop("spectrum")),
        process=OUVE(**values.pop("process")),
        predictive=MaskerConfig(**predictive) if predictive and "width" in predictive else _size(predictive),
        score=_size(score),
        **values,
    )


def _size(values: dict[str, Any] | None) -> NCSNppConfig | None:
    return None if values is None else NCSNppConfig(**as_tuples(values))


# --- sampling -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How a diffusion model is sampled; a predictive one ignores it.

    ``solver``: any of ``degauss.core.gaussian``, or ``predictor_corrector`` as published (30 ``steps``). ``start``: the
    time to start at, above t_eps; 1 is published, less stays nearer to mu. ``draws``: samples, whose mean is the
    result.
    """

    solver: Solver = field(default_factory=lambda: dpmpp(2))
    steps: int = 8
    start: float = 1.0
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1)
        check_range("draws", self.draws, 1, _DRAWS)
        if not 0 < self.start <= 1:
            raise InputError(f"start must be in (0, 1], but is {self.start}.")

    def times(self, smallest: float) -> Tensor:
        """``start`` to ``smallest`` in even steps, then 0: ``[steps + 1]``. A single step goes to 0 at once."""
        if not smallest < self.start:
            raise InputError(f"start must be above {smallest}, the smallest time of the model, but is {self.start}.")
        grid = torch.linspace(self.start, smallest, self.steps, dtype=torch.float64)
        return torch.cat([grid, grid.new_zeros(1)])


class Estimate(NamedTuple):
    """What a model says of a sound, as spectra of the sound divided by ``peak``.

    ``draws`` ``[draws, 2, bins, frames]``: samples; of a predictive model its one answer. ``predictive``
    ``[2, bins, frames]``: D(y), where the model has one.
    """

    draws: Tensor
    predictive: Tensor | None
    peak: float


def evaluations(config: EnhancerConfig, sampling: Sampling) -> int:
    """How often a network is asked for one sound, however many draws: counted, on a stub in the network's place."""
    asked = 0 if config.predictive is None else 1
    if config.score is None:
        return asked

    def stub(x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        nonlocal asked
        asked += 1
        return Point(x)

    times = sampling.times(config.t_eps)
    sample_centred(stub, config.process, torch.zeros(1, 1), solver=sampling.solver, steps=sampling.steps, grid=times)
    return asked


@dataclass(frozen=True, eq=False)
class _Reporting:
    """A denoiser that says when it is asked."""

    denoiser: Denoiser[Point]
    report: Report

    def __call__(self, x: Tensor, t: Tensor, /, **cond: Any) -> Point:
        self.report()
        return self.denoiser(x, t, **cond)


def estimate(
    model: Enhancer, wave: Tensor, sampling: Sampling, number: int = 0, report: Report = lambda: None
) -> Estimate:
    """Estimates of the clean spectrum of ``wave [n]`` at the model's rate.

    ``number`` names the sound: with the seed it decides the randomness. ``report`` is called at each evaluation of a
    network. A sound that is zero throughout is clean. Raises `ValueError` for samples that are not finite, `InputError`
    if sampling diverges.
    """
    if wave.ndim != 1 or wave.numel() == 0 or not bool(torch.isfinite(wave).all()):
        raise ValueError(f"expected finite samples [n], got {list(wave.shape)}")
    peak = float(wave.abs().max())
    with torch.inference_mode():
        noisy = model.config.spectrum.encode((wave / (peak or 1.0))[None].to(model.device))
        if peak == 0:
            return Estimate(noisy.expand(sampling.draws, -1, -1, -1), noisy[0], 1.0)
        mu, denoiser, predictive = model.given(noisy)
        if predictive is not None:
            report()
        if model.config.score is None:
            return Estimate(mu, mu[0], peak)
        try:
            draws = sample_centred(
                _Reporting(denoiser, report),
                model.config.process,
                mu.expand(sampling.draws, -1, -1, -1),
                solver=sampling.solver,
                steps=sampling.steps,
                grid=sampling.times(model.config.t_eps),
                seed=sampling.seed,
                samples=range(number * _DRAWS, number * _DRAWS + sampling.draws),
            )
        except FloatingPointError as error:
            raise InputError(f"sampling diverged: {error}; expected another solver or more steps.") from None
    return Estimate(draws, None if predictive is None else predictive[0], peak)


def sound_of(model: Enhancer, spectra: Tensor, peak: float, length: int) -> Tensor:
    """Spectra ``[b, 2, bins, frames]`` -> sounds ``[b, length]`` of the given peak of their input, on the CPU."""
    return model.config.spectrum.decode(spectra, length).cpu() * peak


def enhance(wave: Tensor, model: Enhancer, sampling: Sampling | None = None, number: int = 0) -> Tensor:
    """Clean sound ``[n]`` for noisy sound ``[n]`` at the model's rate: one call, for sounds that fit in memory.

    The mean of the draws. Long ones, files and other rates: ``streaming`` and ``degauss-audio enhance``.
    """
    found = estimate(model, wave, sampling or Sampling(), number)
    return sound_of(model, found.draws.mean(0, keepdim=True), found.peak, len(wave))[0]
