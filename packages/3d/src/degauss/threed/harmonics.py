r"""Real spherical harmonics up to degree 3: a colour that changes with the direction it is seen from.

With the complex harmonics Y_l^m (orthonormal, Condon-Shortley phase), in the order l^2 + l + m,

    y_l^0 = Y_l^0,   y_l^m = sqrt(2) Re Y_l^m,   y_l^{-m} = sqrt(2) Im Y_l^m   (m > 0),

written as polynomials of the unit vector. This is the order and these are the signs of the files that viewers of
Gaussian splats read (Kerbl et al. 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_DEGREE = 3


def _root(numerator: int, denominator: int) -> float:
    return math.sqrt(numerator / (denominator * math.pi))


C0 = _root(1, 4)
C1 = _root(3, 4)
C2_XY, C2_ZZ, C2_XX = _root(15, 4), _root(5, 16), _root(15, 16)
C3_XXX, C3_XYZ, C3_XZZ, C3_ZZZ, C3_ZXX = _root(35, 32), _root(105, 4), _root(21, 32), _root(7, 16), _root(105, 16)


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """y_l^m for l up to ``degree`` (0 to 3) at unit vectors ``[..., 3]``: ``[..., (degree + 1)^2]``."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, C0)]
    if degree >= 1:
        values += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [C2_XY * x * y, -C2_XY * y * z, C2_ZZ * (2 * zz - xx - yy), -C2_XY * x * z, C2_XX * (xx - yy)]
        if degree >= 3:
            values += [
                -C3_XXX * y * (3 * xx - yy),
                C3_XYZ * x * y * z,
                -C3_XZZ * y * (4 * zz - xx - yy),
                C3_ZZZ * z * (2 * zz - 3 * xx - 3 * yy),
                -C3_XZZ * x * (4 * zz - xx - yy),
                C3_ZXX * z * (xx - yy),
                -C3_XXX * x * (xx - 3 * yy),
            ]
    return torch.stack(values, -1)
