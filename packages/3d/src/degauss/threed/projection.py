r"""What a 3D Gaussian leaves on an image: elliptical weighted average splatting (Zwicker et al. 2001).

A Gaussian of mean m and covariance R S S R' (rotation R of a quaternion, scales S) is moved into the camera's frame
(x right, y down, z the depth) by the rotation W. With the Jacobian J of the pinhole projection at its mean, its image
is the Gaussian of mean (c_x + f_x x / z, c_y + f_y y / z) and covariance

    C = V V' + 0.3 I,   V = J W R S,   J = [[f_x / z, 0, -f_x x / z^2], [0, f_y / z, -f_y y / z^2]],

where 0.3 px^2 is a low-pass filter: no footprint is thinner than about a pixel (Kerbl et al. 2023). J is taken no
further outside the view than 0.3 of its half-width: beyond, the linearisation would blow footprints up. At a pixel at
distance d of the mean, alpha = opacity exp(-d' C^-1 d / 2); only alpha >= 1/255 counts, so that the footprint ends on
an ellipse, whose bounding box has the half-widths sqrt(2 log(255 opacity) C_ii). These are the conventions of gsplat.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from degauss.threed.cameras import Cameras
from degauss.threed.harmonics import harmonics

NEAR = 0.01
"""World units. A Gaussian whose mean is nearer than this, or behind the camera, is not seen."""
LOW_PASS = 0.3
"""Added to the variance of every footprint, square pixels."""
MIN_ALPHA = 1 / 255
"""Less than this counts as nothing."""
VIEW_MARGIN = 0.3
"""How far outside the view the projection is linearised, in half-widths of the view."""
FEATURES = 7
"""Channels of a footprint: red, green, blue, depth, and the normal's x, y, z."""


class Cloud(NamedTuple):
    """p Gaussians as they are optimised.

    ``means`` ``[p, 3]``: world units. ``log_scales`` ``[p, 3]``: logarithms of the standard deviations along the axes.
    ``quaternions`` ``[p, 4]``: (w, x, y, z) of the rotation from the axes to the world, of any length but 0.
    ``opacity_logits`` ``[p]``: the opacity is their sigmoid. ``sh`` ``[p, (degree + 1)^2, 3]``: the colour's spherical
    harmonics, rgb = max(0, 1/2 + sum_k sh_k y_k(direction of view)).
    """

    means: Tensor
    log_scales: Tensor
    quaternions: Tensor
    opacity_logits: Tensor
    sh: Tensor

    @property
    def degree(self) -> int:
        return math.isqrt(self.sh.shape[1]) - 1


class Footprints(NamedTuple):
    """What n cameras see of p Gaussians.

    ``xy`` ``[n, p, 2]``: centres in pixels. ``conic`` ``[n, p, 3]``: (a, b, c) of the inverse covariance
    [[a, b], [b, c]]. ``opacity`` ``[n, p]``. ``features`` ``[n, p, channels]``: what is composited, from `project` the
    seven of `FEATURES`. ``depth`` ``[n, p]``: what they are sorted by. ``extent`` ``[n, p, 2]``: half-widths of the
    bounding box in pixels, 0 for what is not seen; no gradient.
    """

    xy: Tensor
    conic: Tensor
    opacity: Tensor
    features: Tensor
    depth: Tensor
    extent: Tensor


def rotations(quaternions: Tensor) -> Tensor:
    """Rotation matrices ``[..., 3, 3]`` of quaternions (w, x, y, z) ``[..., 4]`` of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def to_camera(cameras: Cameras) -> Tensor:
    """The rotations from the world to axes (right, down, depth), ``[n, 3, 3]``."""
    right, up, back = cameras.world_from_camera[:, :3, :3].unbind(-1)
    return torch.stack((right, -up, -back), 1)


def view_limits(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The least and greatest (x / z, y / z) at which the projection is linearised, each ``[n, 2]``."""
    limits: list[Tensor] = []
    for size, centre, focal in zip(
        (cameras.width, cameras.height), cameras.centre.unbind(-1), cameras.focal.unbind(-1), strict=True
    ):
        margin = VIEW_MARGIN * 0.5 * size
        limits += [(-centre - margin) / focal, (size - centre + margin) / focal]
    return torch.stack(limits[::2], -1), torch.stack(limits[1::2], -1)


def project(cloud: Cloud, cameras: Cameras) -> Footprints:
    """The footprints of a cloud, differentiable in everything of it."""
    offsets = cloud.means - cameras.place[:, None]
    to_view = to_camera(cameras)
    x, y, z = (offsets @ to_view.mT).unbind(-1)
    in_front = z > NEAR
    near = torch.where(in_front, z, 1.0)
    across, down = x / near, y / near
    (f_x, f_y), (c_x, c_y) = cameras.focal[:, :, None].unbind(1), cameras.centre[:, :, None].unbind(1)
    least, most = view_limits(cameras)
    u = across.clamp(least[:, :1], most[:, :1])[..., None]
    v = down.clamp(least[:, 1:], most[:, 1:])[..., None]
    turned = rotations(cloud.quaternions)
    axes = turned * cloud.log_scales.exp()[:, None, :]
    right, below, ahead = to_view[:, :, None, :].unbind(1)
    first = torch.einsum("npi,pij->npj", (f_x / near)[..., None] * (right - u * ahead), axes)
    second = torch.einsum("npi,pij->npj", (f_y / near)[..., None] * (below - v * ahead), axes)
    a, b, c = (first * first).sum(-1) + LOW_PASS, (first * second).sum(-1), (second * second).sum(-1) + LOW_PASS
    opacity = torch.sigmoid(cloud.opacity_logits).expand(len(cameras), -1)
    with torch.no_grad():
        reach = 2 * torch.log(opacity / MIN_ALPHA)
        seen = in_front & (reach > 0)
        extent = torch.stack((a, c), -1) * torch.where(seen, reach, 0.0)[..., None]
    return Footprints(
        torch.stack((c_x + f_x * across, c_y + f_y * down), -1),
        torch.stack((c, -b, a), -1) / (a * c - b * b)[..., None],
        opacity,
        _features(cloud, turned, offsets, z),
        z.detach(),
        extent.sqrt(),
    )


def appearance(cloud: Cloud, cameras: Cameras, depth: Tensor) -> Tensor:
    """The features of `project` by themselves: colour, depth ``[n, p]`` and normal, ``[n, p, 7]``."""
    return _features(cloud, rotations(cloud.quaternions), cloud.means - cameras.place[:, None], depth)


def _features(cloud: Cloud, turned: Tensor, offsets: Tensor, depth: Tensor) -> Tensor:
    bands = harmonics(torch.nn.functional.normalize(offsets, dim=-1), cloud.degree)
    colours = (torch.einsum("npk,pkc->npc", bands, cloud.sh) + 0.5).clamp(min=0)
    # The normal is the shortest axis, on the side that the camera sees.
    shortest = cloud.log_scales.argmin(-1)
    axis = turned.gather(-1, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    away = (offsets * axis).sum(-1, keepdim=True) > 0
    return torch.cat((colours, depth[..., None], torch.where(away, -axis, axis)), -1)
