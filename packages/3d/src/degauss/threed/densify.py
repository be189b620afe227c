r"""Gaussians where they are needed: clone, split, prune, and reset of opacity (Kerbl et al. 2023, section 5.2).

**Statistics.** Where the image pulls a Gaussian's footprint about, detail is missing. For each Gaussian the norm of
dL/d(xy) is averaged over the views that see it; the gradient is taken in units of half the image's width and height,
and times the number of views, so that it depends neither on the resolution nor on the batch of a mean loss.

**Growth**, where that mean is above a threshold: a small Gaussian gets a copy, which the next steps part from it; a
large one is replaced by two, drawn from it, of scales 1.6 times smaller. **Pruning**: what is nearly transparent, and
after the first reset of opacity what is too large. **Reset**: all opacities are brought down now and then, so that
Gaussians must earn theirs again, and those near the camera that nothing needs are pruned.

The optimiser's moments go with the Gaussians: survivors keep theirs, new ones start at zero, and a reset clears those
of the opacities. Anything else would make an optimiser with momentum jump after each change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.gaussians import Gaussians, draw
from degauss.threed.projection import Cloud, Footprints, rotations
from degauss.threed.rendering import Rendered

_SHRINK = 1.6
"""Scales of the two halves of a split Gaussian are smaller by this factor."""


@dataclass(frozen=True)
class DensifyConfig:
    """When to densify and what to change; the defaults are those of 3DGS, for a mean loss over an image.

    ``start``, ``stop``, ``every``: steps. ``reset_every``: steps between resets of opacity. ``grow_gradient``: mean
    gradient above which Gaussians grow. ``small``: the largest scale, in world units, that is cloned rather than split.
    ``least_opacity``: below it Gaussians are pruned. ``largest``: world units; after the first reset larger ones are
    pruned. ``reset_opacity``: what opacities are brought down to. ``most``: of Gaussians; growth stops there, the
    strongest gradients first.
    """

    start: int = 500
    stop: int = 15000
    every: int = 100
    reset_every: int = 3000
    grow_gradient: float = 2e-4
    small: float = 0.01
    least_opacity: float = 0.005
    largest: float = 0.1
    reset_opacity: float = 0.01
    most: int = 1_000_000

    def __post_init__(self) -> None:
        if min(self.every, self.reset_every, self.most) < 1 or not 0 <= self.start <= self.stop:
            raise ValueError(f"densification needs positive intervals and 0 <= start <= stop, got {self}")
        if not 0 < self.least_opacity < self.reset_opacity < 1:
            raise ValueError(f"a reset must leave more opacity than pruning asks for, got {self}")


class Change(NamedTuple):
    """What a step did: Gaussians cloned, split and pruned, and whether opacities were reset."""

    cloned: int = 0
    split: int = 0
    pruned: int = 0
    reset: bool = False


class Densifier:
    """Renders Gaussians, watches the gradients of their footprints, and changes their number.

    Use it in place of the Gaussians where images are made that a loss is taken of, and call `step` after each step of
    the optimiser, which must hold each of their parameters, in any group::

        densifier = Densifier(gaussians, optimiser, Noise(seed, [0]))
        loss_of(densifier.render(cameras, background)).backward()
        optimiser.step()
        densifier.step(i)
    """

    def __init__(
        self,
        gaussians: Gaussians,
        optimiser: torch.optim.Optimizer,
        noise: Noise,
        config: DensifyConfig = DensifyConfig(),
    ) -> None:
        self.gaussians, self.optimiser, self.noise, self.config = gaussians, optimiser, noise, config
        held = {id(value) for group in optimiser.param_groups for value in group["params"]}
        missing = [name for name in Cloud._fields if id(gaussians.get_parameter(name)) not in held]
        if missing:
            raise ValueError(f"the optimiser does not hold {', '.join(missing)} of the Gaussians")
        self._forget()

    def render(self, cameras: Cameras, background: Tensor, /) -> Rendered:
        """As `Gaussians.render`; the backward pass adds to the statistics."""
        seen, footprints = draw(self.gaussians.cloud(), cameras, background)
        if footprints.xy.requires_grad:

            def watch(d_xy: Tensor) -> None:
                across, down = d_xy.unbind(-1)
                pull = torch.hypot(across * (0.5 * cameras.width), down * (0.5 * cameras.height))
                self._observe(pull * len(cameras), footprints)

            footprints.xy.register_hook(watch)
        return seen

    def step(self, i: int) -> Change:
        """To be called after step ``i`` (from 0) of the optimiser; a change is made where it is due.

        Raises `InputError` if a Gaussian is no longer finite.
        """
        config, done = self.config, i + 1
        if not config.start <= done <= config.stop:
            return Change()
        change = Change()
        if done % config.every == 0:
            change = self._grow_and_prune(done)
            self._forget()
        if done % config.reset_every == 0:
            self._reset()
            change = change._replace(reset=True)
        return change

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics so far, for an exact resume."""
        return {"pull": self._pull, "views": self._views}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave, for the same Gaussians."""
        self._pull, self._views = (state[name].to(self._pull) for name in ("pull", "views"))

    def _forget(self) -> None:
        means = self.gaussians.cloud().means.detach()
        self._pull, self._views = (means.new_zeros(len(means)) for _ in range(2))

    @torch.no_grad()
    def _observe(self, pull: Tensor, footprints: Footprints) -> None:
        seen = footprints.extent[..., 0] > 0
        self._pull += (pull * seen).sum(0)
        self._views += seen.sum(0)

    @torch.no_grad()
    def _grow_and_prune(self, done: int) -> Change:
        config, cloud = self.config, self.gaussians.cloud()
        pull = self._pull / self._views.clamp(min=1)
        if not bool(torch.isfinite(pull).all() & torch.stack([part.isfinite().all() for part in cloud]).all()):
            raise InputError(f"after step {done} a Gaussian or its gradient is not finite: lower the learning rates.")
        grows = pull > config.grow_gradient
        room = max(0, config.most - len(pull))
        if int(grows.sum()) > room:
            strongest = torch.where(grows, pull, -math.inf).topk(room).indices
            grows = torch.zeros_like(grows).index_fill(0, strongest, True)
        widest = cloud.log_scales.amax(-1).exp()
        clones, splits = grows & (widest <= config.small), grows & (widest > config.small)
        fades = torch.sigmoid(cloud.opacity_logits) < config.least_opacity
        if done > config.reset_every:
            fades |= widest > config.largest
        # What fades does not grow.
        clones, splits = clones & ~fades, splits & ~fades
        halves = _halves(Cloud(*(part[splits] for part in cloud)), self.noise, done)
        copies = Cloud(*(part[clones] for part in cloud))
        stays = ~(splits | fades)
        if not bool((stays | clones | splits).any()):
            raise InputError(f"after step {done} all Gaussians are transparent: nothing is left to optimise.")
        parts = zip(Cloud._fields, copies, halves, strict=True)
        self._rebuild({name: torch.cat((copy, half)) for name, copy, half in parts}, stays)
        return Change(int(clones.sum()), int(splits.sum()), int(fades.sum()))

    @torch.no_grad()
    def _reset(self) -> None:
        logits = self.gaussians.cloud().opacity_logits
        most = self.config.reset_opacity
        self._replace("opacity_logits", logits.clamp(max=math.log(most / (1 - most))), torch.zeros_like)

    def _rebuild(self, new: dict[str, Tensor], stays: Tensor) -> None:
        for name, fresh in new.items():
            old = self.gaussians.get_parameter(name)
            self._replace(
                name,
                torch.cat((old[stays], fresh)),
                lambda moment, fresh=fresh: torch.cat((moment[stays], torch.zeros_like(fresh))),
            )

    def _replace(self, name: str, value: Tensor, moved: Callable[[Tensor], Tensor]) -> None:
        """Put a value in a parameter's place, in the module and the optimiser; ``moved`` does so for its moments."""
        old = self.gaussians.get_parameter(name)
        new = nn.Parameter(value, requires_grad=old.requires_grad)
        state: dict[str, Any] = self.optimiser.state.pop(old, {})
        for key, moment in state.items():
            if isinstance(moment, Tensor) and moment.shape == old.shape:
                state[key] = moved(moment)
        if state:
            self.optimiser.state[new] = state
        for group in self.optimiser.param_groups:
            group["params"] = [new if value is old else value for value in group["params"]]
        self.gaussians.register_parameter(name, new)


def _halves(cloud: Cloud, noise: Noise, done: int) -> Cloud:
    """Two Gaussians for each, of means drawn from it."""
    like = cloud.means.new_empty(1, 2, len(cloud.means), 3)
    inside = cloud.log_scales.exp() * noise.normal(like, done)[0]
    means = cloud.means + torch.einsum("pij,kpj->kpi", rotations(cloud.quaternions), inside)
    twice = Cloud(*(torch.cat((part, part)) for part in cloud))
    return twice._replace(means=means.flatten(0, 1), log_scales=twice.log_scales - math.log(_SHRINK))
