r"""How good a scene is where the true mesh is known, and how much runs and gradients vary.

**Views** that no training saw, n of them with pixels p: the peak signal-to-noise ratio over the same background and
the overlap of the silhouettes,

    PSNR = -10 log10 mean_p |rgb - rgb*|^2,   IoU = sum_p min(a, a*) / sum_p max(a, a*),

and the angle between the normals where both alphas pass one half. Each is taken for each view and then averaged.

**Surfaces**, by points P and Q drawn uniformly by area, with d(p, Q) the distance to the nearest point,

    Chamfer = (mean_P d(p, Q) + mean_Q d(q, P)) / 2,   F = 2 / (1 / precision + 1 / recall),

with the shares of P (precision) and of Q (recall) that lie within 1 % of the unit cube's side of the other surface
(Knapitsch et al. 2017). Points that are drawn from one surface twice are not at distance 0: with n of them about
1 / (2 sqrt(n / area)), which `compare_surfaces` of a mesh and itself shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras, Size
from degauss.threed.meshes import Mesh
from degauss.threed.rendering import Rendered, Representation, render

_AT_ONCE = 4
_MOST = 99.0
"""PSNR of images that are equal, in dB."""


class ViewScores(NamedTuple):
    """Means over views: ``psnr`` in dB, ``iou`` of silhouettes in [0, 1], ``normal_angle`` in degrees."""

    psnr: float
    iou: float
    normal_angle: float


class SurfaceScores(NamedTuple):
    """``chamfer`` in world units; ``f_score``, ``precision``, ``recall`` at the distance asked for, in [0, 1]."""

    chamfer: float
    f_score: float
    precision: float
    recall: float


def held_out_views(size: Size = 64, turns: int = 8, device: torch.device | str = "cpu") -> Cameras:
    """Views all around at elevations 0 and 30, half a turn's step apart from the front: training draws them never."""
    azimuth = (torch.arange(turns, dtype=torch.float64, device=device) + 0.5) * (360 / turns)
    elevation = torch.tensor((0.0, 30.0), dtype=torch.float64, device=device)
    return Cameras.orbit(azimuth.repeat(2), elevation.repeat_interleave(turns), size=size)


def compare_views(found: Representation, truth: Representation, cameras: Cameras) -> ViewScores:
    """The scores of what is ``found`` against the truth, both over white."""
    rows: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(cameras), _AT_ONCE):
            some = cameras[start : start + _AT_ONCE]
            rows.append(score_images(render(found, some), render(truth, some)))
    psnr, iou, angle = torch.cat(rows).nanmean(0).tolist()
    return ViewScores(psnr, iou, angle)


def score_images(found: Rendered, truth: Rendered) -> Tensor:
    """PSNR, IoU and the angle of normals (NaN where the silhouettes do not meet) of each view, ``[n, 3]``."""
    error = (found.rgb - truth.rgb).square().flatten(1).mean(1).double()
    psnr = (-10 * error.clamp(min=10 ** (-_MOST / 10)).log10()).clamp(max=_MOST)
    common = torch.minimum(found.alpha, truth.alpha).flatten(1).sum(1)
    iou = common / torch.maximum(found.alpha, truth.alpha).flatten(1).sum(1).clamp(min=1e-9)
    solid = ((found.alpha > 0.5) & (truth.alpha > 0.5)).flatten(1)
    cosine = torch.nn.functional.cosine_similarity(found.normal, truth.normal, dim=-1).flatten(1).clamp(-1, 1)
    angle = torch.where(solid, torch.rad2deg(cosine.acos()), 0.0).sum(1) / solid.sum(1)
    return torch.stack((psnr, iou.double(), angle.double()), 1)


def compare_surfaces(
    found: Mesh, truth: Mesh, points: int = 20_000, within: float = 0.01, seed: int = 0
) -> SurfaceScores:
    """The scores of a mesh against the true one, from ``points`` of each; ``within``: world units."""
    from scipy.spatial import KDTree

    some, others = (
        surface_points(mesh, points, Noise(seed, (row,))).cpu().numpy() for row, mesh in enumerate((found, truth))
    )
    there = torch.from_numpy(KDTree(others).query(some)[0])
    back = torch.from_numpy(KDTree(some).query(others)[0])
    precision, recall = (float((part <= within).double().mean()) for part in (there, back))
    f_score = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return SurfaceScores(float(there.mean() + back.mean()) / 2, f_score, precision, recall)


def surface_points(mesh: Mesh, count: int, noise: Noise) -> Tensor:
    """Points on a mesh, uniform by area ``[count, 3]``; ``noise``: of one sample."""
    a, b, c = mesh.vertices.detach().double()[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    u = noise.uniform(torch.empty(1, count, 3, dtype=torch.float64, device=a.device))[0]
    where = torch.searchsorted(area.cumsum(0), u[:, 0] * area.sum()).clamp(max=len(area) - 1)
    root = u[:, 1:2].sqrt()
    return (1 - root) * a[where] + root * (1 - u[:, 2:]) * b[where] + root * u[:, 2:] * c[where]


# --- how much things vary -------------------------------------------------------------------------------------


def diversity(images: Tensor) -> float:
    """The mean over pairs of runs of the root mean square difference of their images ``[runs, ...]``.

    The images of each run are from the same views. 0 for runs that are all alike. Raises ValueError for one run.
    """
    runs = len(images)
    if runs < 2:
        raise ValueError(f"diversity is of two runs or more, got {runs}")
    flat = images.detach().flatten(1).double()
    distances = torch.pdist(flat) / math.sqrt(flat.shape[1])
    return float(distances.mean())


def gradient_variance(draw: Callable[[int], Tensor], count: int) -> float:
    """E|g - E g|^2 / |E g|^2 of a random gradient, from ``count`` draws, unbiased above and below.

    ``draw``: i to the gradient at one fixed scene with the i-th randomness. 0 where there is no noise; infinite where
    the mean is lost in it.
    """
    if count < 2:
        raise ValueError(f"a variance is of two draws or more, got {count}")
    total, square = torch.zeros((), dtype=torch.float64), 0.0
    for i in range(count):
        gradient = draw(i).detach().double().cpu()
        total = total + gradient
        square += float(gradient.square().sum())
    mean = total / count
    spread = (square - count * float(mean.square().sum())) / (count - 1)
    signal = float(mean.square().sum()) - spread / count
    return spread / signal if signal > 0 else math.inf
