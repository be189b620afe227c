r"""Pinhole cameras: from pixels to rays, from points to pixels, and where to look from.

**World.** Right-handed, y up; an object fits the cube [-0.5, 0.5]^3 around the origin.
**Camera.** It looks along its own -z, y is up and x is right (OpenGL, NeRF, trimesh and pyrender agree on this).
**Pixels.** (0, 0) is the top left corner of the image and (0.5, 0.5) the centre of its first pixel; with focal
lengths (f_x, f_y) and centre (c_x, c_y) in pixels, a point (x, y, z) in the camera's frame is seen at

    depth = -z,   p_x = c_x + f_x x / depth,   p_y = c_y - f_y y / depth.

**Orbit.** Azimuth 0 is the front, seen from +z; it grows towards +x, elevation towards +y, both in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from degauss.core.noise import Noise

Size = int | tuple[int, int]
"""Of an image: its height and width in pixels, one number for both."""


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of n cameras of one image size.

    ``world_from_camera`` ``[n, 4, 4]``: rigid, the camera's axes and place in world coordinates as columns.
    ``focal``, ``centre`` ``[n, 2]``: (x, y) in pixels. ``height``, ``width``: of the images, in pixels.
    """

    world_from_camera: Tensor
    focal: Tensor
    centre: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        pose, focal, centre = (tuple(part.shape) for part in (self.world_from_camera, self.focal, self.centre))
        if pose[1:] != (4, 4) or len(pose) != 3 or focal != (pose[0], 2) or centre != (pose[0], 2):
            raise ValueError(f"cameras are [n, 4, 4], [n, 2] and [n, 2], got {pose}, {focal} and {centre}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an image has at least one pixel, got {self.height} x {self.width}")

    @classmethod
    def orbit(
        cls,
        azimuth: float | Tensor,
        elevation: float | Tensor,
        radius: float | Tensor = 2.2,
        fov: float | Tensor = 40.0,
        size: Size = 64,
        dtype: torch.dtype = torch.float32,
    ) -> Cameras:
        """Cameras on spheres around the origin, looking at it, world's up upwards.

        ``azimuth``, ``elevation``: degrees. ``radius``: world units. ``fov``: the vertical field of view in degrees;
        pixels are square. A ball of radius r is in view from r / sin(fov / 2): at 40 degrees, one of 0.75 from 2.2.
        Numbers or ``[n]``, broadcast together; the cameras lie where the tensors do. Right at the poles too, where up
        is what it is just before them.
        """
        height, width = (size, size) if isinstance(size, int) else size
        given = (azimuth, elevation, radius, fov)
        device = next((value.device for value in given if isinstance(value, Tensor)), torch.device("cpu"))
        flat = (torch.as_tensor(value, dtype=torch.float64, device=device).reshape(-1) for value in given)
        turn, rise, away, view = torch.broadcast_tensors(*flat)
        sin_a, cos_a = torch.deg2rad(turn).sin(), torch.deg2rad(turn).cos()
        sin_e, cos_e = torch.deg2rad(rise).sin(), torch.deg2rad(rise).cos()
        right = torch.stack((cos_a, torch.zeros_like(cos_a), -sin_a), -1)
        up = torch.stack((-sin_a * sin_e, cos_e, -cos_a * sin_e), -1)
        back = torch.stack((sin_a * cos_e, sin_e, cos_a * cos_e), -1)
        upper = torch.stack((right, up, back, away[:, None] * back), -1)
        pose = torch.cat((upper, upper.new_tensor((0.0, 0.0, 0.0, 1.0)).expand(len(upper), 1, 4)), 1)
        focal = (0.5 * height / torch.tan(0.5 * torch.deg2rad(view)))[:, None].expand(-1, 2)
        centre = focal.new_tensor((0.5 * width, 0.5 * height)).expand_as(focal)
        return cls(pose.to(dtype), focal.to(dtype), centre.to(dtype), height, width)

    def __len__(self) -> int:
        return len(self.focal)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """Some of the cameras; one stays a batch of one."""
        if isinstance(index, int):
            index = [index]
        return Cameras(self.world_from_camera[index], self.focal[index], self.centre[index], self.height, self.width)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        """The same cameras on another device or in another precision."""

        def moved(part: Tensor) -> Tensor:
            return part.to(device=device, dtype=dtype)

        pose, focal, centre = moved(self.world_from_camera), moved(self.focal), moved(self.centre)
        return Cameras(pose, focal, centre, self.height, self.width)

    @property
    def device(self) -> torch.device:
        return self.world_from_camera.device

    @property
    def place(self) -> Tensor:
        """Where the cameras are in the world, ``[n, 3]``."""
        return self.world_from_camera[:, :3, 3]

    @property
    def forward(self) -> Tensor:
        """The unit vectors that they look along, the axes of depth, ``[n, 3]``."""
        return -self.world_from_camera[:, :3, 2]

    @property
    def view_from_world(self) -> Tensor:
        """The inverse of ``world_from_camera``, ``[n, 4, 4]``."""
        rotation = self.world_from_camera[:, :3, :3].mT
        upper = torch.cat((rotation, -rotation @ self.world_from_camera[:, :3, 3:]), -1)
        return torch.cat((upper, self.world_from_camera[:, 3:]), 1)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins and unit directions of the rays through the pixels' centres, each ``[n, height, width, 3]``.

        A point at distance s on a ray has depth s (direction . ``forward``).
        """
        pose = self.world_from_camera
        x = torch.arange(self.width, device=pose.device, dtype=pose.dtype) + 0.5
        y = torch.arange(self.height, device=pose.device, dtype=pose.dtype) + 0.5
        across = ((x - self.centre[:, :1]) / self.focal[:, :1])[:, None, :].expand(-1, self.height, -1)
        down = ((y - self.centre[:, 1:]) / self.focal[:, 1:])[:, :, None].expand(-1, -1, self.width)
        local = torch.stack((across, -down, -torch.ones_like(across)), -1)
        directions = torch.einsum("nhwc,ndc->nhwd", local, pose[:, :3, :3])
        directions = directions / directions.norm(dim=-1, keepdim=True)
        return self.place[:, None, None, :].expand_as(directions), directions

    def project(self, points: Tensor) -> Tensor:
        """Where points ``[p, 3]``, or ``[n, p, 3]`` for each camera its own, are seen: (p_x, p_y, depth) ``[n, p, 3]``.

        Depth is positive in front of the camera; the pixel of a point at or behind it means nothing.
        """
        view = self.view_from_world
        x, y, z = (points @ view[:, :3, :3].mT + view[:, None, :3, 3]).unbind(-1)
        (f_x, f_y), (c_x, c_y) = self.focal[:, :, None].unbind(1), self.centre[:, :, None].unbind(1)
        return torch.stack((c_x - f_x * x / z, c_y + f_y * y / z, -z), -1)

    def angles(self) -> tuple[Tensor, Tensor]:
        """Azimuth in (-180, 180] and elevation in [-90, 90] of their places seen from the origin, degrees ``[n]``."""
        x, y, z = self.place.unbind(-1)
        return torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))


Range = tuple[float, float]


@dataclass(frozen=True)
class Orbits:
    """Where random views are from: ranges of angles in degrees and of radii in world units, each drawn uniformly.

    ``elevation`` is drawn uniformly by area on the sphere. The defaults keep a ball of radius 0.65 in view.
    """

    azimuth: Range = (-180.0, 180.0)
    elevation: Range = (-15.0, 60.0)
    radius: Range = (2.0, 2.4)
    fov: Range = (38.0, 42.0)

    def __post_init__(self) -> None:
        low, high = self.elevation
        ordered = all(first <= last for first, last in (self.azimuth, self.elevation, self.radius, self.fov))
        if not ordered or low < -90 or high > 90 or self.radius[0] <= 0 or not 0 < self.fov[0] <= self.fov[1] < 180:
            raise ValueError(f"views need increasing ranges, elevations in [-90, 90], fov in (0, 180), got {self}")


def random_views(
    noise: Noise, orbits: Orbits = Orbits(), size: Size = 64, draw: int = 0, device: torch.device | str = "cpu"
) -> Cameras:
    """One random camera for each sample of the noise; ``draw`` numbers independent views, a training step say."""
    u = noise.uniform(torch.empty(len(noise.samples), 4, dtype=torch.float64, device=device), draw)

    def between(part: int, low: float, high: float) -> Tensor:
        return low + (high - low) * u[:, part]

    low, high = (math.sin(math.radians(angle)) for angle in orbits.elevation)
    elevation = torch.rad2deg(torch.asin(between(1, low, high).clamp(-1, 1)))
    return Cameras.orbit(
        between(0, *orbits.azimuth), elevation, between(2, *orbits.radius), between(3, *orbits.fov), size
    )
