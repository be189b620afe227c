"""The slow renderer that the fast ones must agree with: every pixel, every Gaussian, one after another.

It shares nothing with them but the cameras and the spherical harmonics, which have tests of their own: axes are
turned by products of quaternions, and the projection is linearised by automatic differentiation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from degauss.core.noise import Noise
from degauss.threed.cameras import Cameras
from degauss.threed.harmonics import harmonics
from degauss.threed.projection import Cloud


def hamilton(p: Tensor, q: Tensor) -> Tensor:
    a, u, b, v = p[0], p[1:], q[0], q[1:]
    return torch.cat(((a * b - u @ v)[None], a * v + b * u + torch.linalg.cross(u, v)))


def turned(quaternion: Tensor, vector: Tensor) -> Tensor:
    q = quaternion / quaternion.norm()
    back = q * q.new_tensor((1.0, -1.0, -1.0, -1.0))
    return hamilton(hamilton(q, torch.cat((vector.new_zeros(1), vector))), back)[1:]


def seen(cloud: Cloud, camera: Cameras, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre in pixels, covariance in pixels, depth, features of Gaussian i for one camera."""
    mean = cloud.means[i]

    def pixel(point: Tensor) -> Tensor:
        return camera.project(point[None])[0, 0, :2]

    jacobian = torch.autograd.functional.jacobian(pixel, mean, create_graph=True)
    assert isinstance(jacobian, Tensor)
    axes = torch.stack([turned(cloud.quaternions[i], axis) for axis in torch.eye(3, dtype=mean.dtype)], -1)
    covariance = axes @ torch.diag((2 * cloud.log_scales[i]).exp()) @ axes.mT
    flat = jacobian @ covariance @ jacobian.mT + 0.3 * torch.eye(2, dtype=mean.dtype)
    offset = mean - camera.world_from_camera[0, :3, 3]
    colour = (harmonics(offset / offset.norm(), cloud.degree) @ cloud.sh[i] + 0.5).clamp(min=0)
    normal = axes[:, int(cloud.log_scales[i].argmin())]
    normal = -normal if float((normal @ offset).detach()) > 0 else normal
    depth = camera.project(mean[None])[0, 0, 2]
    return pixel(mean), flat, depth, torch.cat((colour, depth[None], normal))


def dense(cloud: Cloud, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Features weighted by alpha ``[n, h, w, 7]`` and alpha ``[n, h, w]``, differentiable."""
    y, x = torch.meshgrid(
        torch.arange(cameras.height, dtype=torch.float64) + 0.5,
        torch.arange(cameras.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack((x, y), -1)
    images: list[Tensor] = []
    alphas: list[Tensor] = []
    for k in range(len(cameras)):
        camera = cameras[k]
        through, going = torch.ones_like(x), torch.ones_like(x, dtype=torch.bool)
        image, alpha = x.new_zeros(*x.shape, 7), torch.zeros_like(x)
        depths = camera.project(cloud.means.detach())[0, :, 2]
        for i in depths.argsort().tolist():
            if float(depths[i]) <= 0.01:
                continue
            centre, covariance, _, features = seen(cloud, camera, i)
            away = pixels - centre
            power = torch.einsum("hwi,ij,hwj->hw", away, torch.linalg.inv(covariance), away)
            a = (torch.sigmoid(cloud.opacity_logits[i]) * torch.exp(-power / 2)).clamp(max=0.999)
            a = torch.where(a < 1 / 255, 0.0, a)
            going = going & (through * (1 - a) > 1e-4)
            weight = torch.where(going, a * through, 0.0)
            image, alpha = image + weight[..., None] * features, alpha + weight
            through = torch.where(going, through * (1 - a), through)
        images.append(image)
        alphas.append(alpha)
    return torch.stack(images), torch.stack(alphas)


def cloud_of(count: int, degree: int = 1, seed: int = 0, opaque: bool = False) -> Cloud:
    """Slanted Gaussians in the unit cube, leaves in float64."""

    def drawn(number: int, *shape: int) -> Tensor:
        return Noise(seed, range(count)).normal(torch.empty(count, *shape, dtype=torch.float64), number)

    means = 0.25 * drawn(0, 3)
    log_scales = -2.6 + 0.5 * drawn(1, 3)
    logits = (3.0 if opaque else 0.0) + 1.5 * drawn(3)
    parts = (means, log_scales, drawn(2, 4), logits, 0.3 * drawn(4, (degree + 1) ** 2, 3))
    return Cloud(*(part.requires_grad_() for part in parts))


def cast(cloud: Cloud, dtype: torch.dtype) -> Cloud:
    """The same numbers as new leaves."""
    return Cloud(*(part.detach().to(dtype).requires_grad_() for part in cloud))


def gradients(cloud: Cloud, image: Tensor, alpha: Tensor) -> list[Tensor]:
    """Of one fixed linear function of the images, in every parameter."""
    weights = Noise(9, range(len(image))).normal(torch.empty(image.shape, dtype=torch.float64))
    behind = Noise(8, range(len(alpha))).normal(torch.empty(alpha.shape, dtype=torch.float64))
    loss = (image * weights.to(image)).sum() + (alpha * behind.to(alpha)).sum()
    return list(torch.autograd.grad(loss, list(cloud)))
