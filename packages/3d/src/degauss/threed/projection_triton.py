# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# ruff: noqa: RUF005 (Triton has no starred expressions)
r"""Footprints of Gaussians with Triton: what `degauss.threed.projection` does, in one kernel each way.

Forward, a lane makes the footprint of one Gaussian for one camera. Backward, a lane goes through all cameras and sums
the gradients of its Gaussian in registers, so that nothing is added atomically. Nothing is kept in between: a footprint
is cheaper to make again than to store.

With V = U M (U = J W, M = R S), C = V V' + 0.3 I and K = C^-1, the backward pass is

    dC = -K dK K,   dV = 2 dC V,   dM = U' dV,   dU = dV M',   dR = dM S + normals,   ds_j = sum_i R_ij dM_ij,

and from there by the chain rule to quaternions, and through J to the mean.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from degauss.threed import harmonics
from degauss.threed.cameras import Cameras
from degauss.threed.projection import FEATURES, LOW_PASS, MIN_ALPHA, NEAR, Cloud, Footprints, to_camera, view_limits

_LANES = 128
# One program for all numbers of Gaussians: densification changes them all the time.
_INTEGERS = ["number", "count"]
_C0, _C1 = tl.constexpr(harmonics.C0), tl.constexpr(harmonics.C1)
_XY, _ZZ, _XX = tl.constexpr(harmonics.C2_XY), tl.constexpr(harmonics.C2_ZZ), tl.constexpr(harmonics.C2_XX)
_XXX, _XYZ = tl.constexpr(harmonics.C3_XXX), tl.constexpr(harmonics.C3_XYZ)
_XZZ, _ZZZ, _ZXX = tl.constexpr(harmonics.C3_XZZ), tl.constexpr(harmonics.C3_ZZZ), tl.constexpr(harmonics.C3_ZXX)
_NUMBERS = tl.constexpr(20)
"""Of a camera: its rotation (9), place, focal lengths, centre, and the limits of x / z and y / z."""


@triton.jit
def _three(start, mask):
    """Three numbers in a row."""
    return (
        tl.load(start, mask=mask, other=0.0),
        tl.load(start + 1, mask=mask, other=0.0),
        tl.load(start + 2, mask=mask, other=0.0),
    )


@triton.jit
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def _harmonics(d, DEGREE: tl.constexpr):
    x, y, z = d[0], d[1], d[2]
    values = (x * 0.0 + _C0,)
    if DEGREE >= 1:
        values = values + (-_C1 * y, _C1 * z, -_C1 * x)
    if DEGREE >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values = values + (_XY * x * y, -_XY * y * z, _ZZ * (2 * zz - xx - yy), -_XY * x * z, _XX * (xx - yy))
        if DEGREE >= 3:
            values = values + (
                -_XXX * y * (3 * xx - yy),
                _XYZ * x * y * z,
                -_XZZ * y * (4 * zz - xx - yy),
                _ZZZ * z * (2 * zz - 3 * xx - 3 * yy),
                -_XZZ * x * (4 * zz - xx - yy),
                _ZXX * z * (xx - yy),
                -_XXX * x * (xx - 3 * yy),
            )
    return values


@triton.jit
def _harmonics_slope(d, g, DEGREE: tl.constexpr):
    """The gradient of sum_k g_k y_k in the direction."""
    x, y, z = d[0], d[1], d[2]
    d_x, d_y, d_z = x * 0.0, x * 0.0, x * 0.0
    if DEGREE >= 1:
        d_x += -_C1 * g[3]
        d_y += -_C1 * g[1]
        d_z += _C1 * g[2]
    if DEGREE >= 2:
        d_x += _XY * (y * g[4] - z * g[7]) + 2 * x * (_XX * g[8] - _ZZ * g[6])
        d_y += _XY * (x * g[4] - z * g[5]) - 2 * y * (_XX * g[8] + _ZZ * g[6])
        d_z += 4 * _ZZ * z * g[6] - _XY * (y * g[5] + x * g[7])
    if DEGREE >= 3:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        d_x += -6 * _XXX * xy * g[9] + _XYZ * yz * g[10] + 2 * _XZZ * xy * g[11] - 6 * _ZZZ * xz * g[12]
        d_x += -_XZZ * (4 * zz - 3 * xx - yy) * g[13] + 2 * _ZXX * xz * g[14] - 3 * _XXX * (xx - yy) * g[15]
        d_y += -3 * _XXX * (xx - yy) * g[9] + _XYZ * xz * g[10] - _XZZ * (4 * zz - xx - 3 * yy) * g[11]
        d_y += -6 * _ZZZ * yz * g[12] + 2 * _XZZ * xy * g[13] - 2 * _ZXX * yz * g[14] + 6 * _XXX * xy * g[15]
        d_z += _XYZ * xy * g[10] - 8 * _XZZ * yz * g[11] + _ZZZ * (6 * zz - 3 * xx - 3 * yy) * g[12]
        d_z += -8 * _XZZ * xz * g[13] + _ZXX * (xx - yy) * g[14]
    return d_x, d_y, d_z


@triton.jit
def _turned(w, x, y, z):
    """The rows of a rotation."""
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@triton.jit
def _load(means, log_scales, quaternions, logits, g, mask):
    """Mean, scales, unit quaternion and its length before, rows of the rotation, opacity."""
    mean = _three(means + g * 3, mask)
    s = _three(log_scales + g * 3, mask)
    scales = (tl.exp(s[0]), tl.exp(s[1]), tl.exp(s[2]))
    at = quaternions + g * 4
    w = tl.load(at, mask=mask, other=1.0)
    x, y, z = _three(at + 1, mask)
    length = tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    q = (w / length, x / length, y / length, z / length)
    return (
        mean,
        scales,
        q,
        length,
        _turned(q[0], q[1], q[2], q[3]),
        tl.sigmoid(tl.load(logits + g, mask=mask, other=0.0)),
    )


@triton.jit
def _shortest(scales):
    """1 for the axis that the normal is along, 0 for the others."""
    first = (scales[0] <= scales[1]) & (scales[0] <= scales[2])
    second = (scales[1] <= scales[2]) & (first == 0)
    return first.to(tl.float32), second.to(tl.float32), 1.0 - first.to(tl.float32) - second.to(tl.float32)


@triton.jit
def _normal(turned, scales, offset):
    """The normal, and the sign that turns it to the camera."""
    one = _shortest(scales)
    axis = (_dot(turned[0], one), _dot(turned[1], one), _dot(turned[2], one))
    sign = tl.where(_dot(axis, offset) > 0, -1.0, 1.0)
    return (sign * axis[0], sign * axis[1], sign * axis[2]), sign


@triton.jit
def _camera(cameras, camera):
    """Rows of the rotation (right, down, ahead), and a pointer to the rest."""
    at = cameras + camera * _NUMBERS
    right = (tl.load(at), tl.load(at + 1), tl.load(at + 2))
    below = (tl.load(at + 3), tl.load(at + 4), tl.load(at + 5))
    ahead = (tl.load(at + 6), tl.load(at + 7), tl.load(at + 8))
    return right, below, ahead, at + 9


@triton.jit
def _jacobian(mean, right, below, ahead, rest, NEAR: tl.constexpr):
    """The offset from the camera, depth, x / z and y / z, the same within the limits, f_x / z and f_y / z, and z."""
    offset = (mean[0] - tl.load(rest), mean[1] - tl.load(rest + 1), mean[2] - tl.load(rest + 2))
    depth = _dot(ahead, offset)
    z = tl.where(depth > NEAR, depth, 1.0)
    across, down = _dot(right, offset) / z, _dot(below, offset) / z
    u = tl.minimum(tl.maximum(across, tl.load(rest + 7)), tl.load(rest + 9))
    v = tl.minimum(tl.maximum(down, tl.load(rest + 8)), tl.load(rest + 10))
    return offset, depth, across, down, u, v, tl.load(rest + 3) / z, tl.load(rest + 4) / z, z


@triton.jit
def _rows(axis, u, ahead, factor):
    """A row of U = J W."""
    return factor * (axis[0] - u * ahead[0]), factor * (axis[1] - u * ahead[1]), factor * (axis[2] - u * ahead[2])


@triton.jit
def _through(row, turned, scales):
    """row M, with M = R S."""
    return (
        (row[0] * turned[0][0] + row[1] * turned[1][0] + row[2] * turned[2][0]) * scales[0],
        (row[0] * turned[0][1] + row[1] * turned[1][1] + row[2] * turned[2][1]) * scales[1],
        (row[0] * turned[0][2] + row[1] * turned[1][2] + row[2] * turned[2][2]) * scales[2],
    )


@triton.jit
def _direction(offset):
    length = tl.maximum(tl.sqrt(_dot(offset, offset)), 1e-12)
    return (offset[0] / length, offset[1] / length, offset[2] / length), length


@triton.jit(do_not_specialize=["count"])
def _forward_kernel(
    xy, conic, opacities, features, depths, extent, means, log_scales, quaternions, logits, sh, cameras, count,
    DEGREE: tl.constexpr, LANES: tl.constexpr, NEAR: tl.constexpr, LOW_PASS: tl.constexpr, MIN_ALPHA: tl.constexpr,
):  # fmt: skip
    camera = tl.program_id(1).to(tl.int64)
    g = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    mask = g < count
    mean, scales, _, _, turned, opacity = _load(means, log_scales, quaternions, logits, g, mask)
    right, below, ahead, rest = _camera(cameras, camera)
    offset, depth, across, down, u, v, k_x, k_y, _ = _jacobian(mean, right, below, ahead, rest, NEAR)
    first = _through(_rows(right, u, ahead, k_x), turned, scales)
    second = _through(_rows(below, v, ahead, k_y), turned, scales)
    a, b, c = _dot(first, first) + LOW_PASS, _dot(first, second), _dot(second, second) + LOW_PASS
    determinant = a * c - b * b
    at = camera * count + g
    tl.store(xy + at * 2, tl.load(rest + 5) + tl.load(rest + 3) * across, mask=mask)
    tl.store(xy + at * 2 + 1, tl.load(rest + 6) + tl.load(rest + 4) * down, mask=mask)
    tl.store(conic + at * 3, c / determinant, mask=mask)
    tl.store(conic + at * 3 + 1, -b / determinant, mask=mask)
    tl.store(conic + at * 3 + 2, a / determinant, mask=mask)
    tl.store(opacities + at, opacity, mask=mask)
    tl.store(depths + at, depth, mask=mask)
    reach = tl.where(depth > NEAR, tl.maximum(2 * tl.log(opacity / MIN_ALPHA), 0.0), 0.0)
    tl.store(extent + at * 2, tl.sqrt(a * reach), mask=mask)
    tl.store(extent + at * 2 + 1, tl.sqrt(c * reach), mask=mask)
    direction, _ = _direction(offset)
    bands = _harmonics(direction, DEGREE)
    normal, _ = _normal(turned, scales, offset)
    for channel in tl.static_range(3):
        colour = mean[0] * 0.0 + 0.5
        for k in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
            from_here = sh + (g * ((DEGREE + 1) * (DEGREE + 1)) + k) * 3 + channel
            colour += bands[k] * tl.load(from_here, mask=mask, other=0.0)
        tl.store(features + at * 7 + channel, tl.maximum(colour, 0.0), mask=mask)
        tl.store(features + at * 7 + 4 + channel, normal[channel], mask=mask)
    tl.store(features + at * 7 + 3, depth, mask=mask)


@triton.jit(do_not_specialize=_INTEGERS)
def _backward_kernel(
    d_means, d_log_scales, d_quaternions, d_logits, d_sh, d_xy, d_conic, d_opacity, d_features,
    means, log_scales, quaternions, logits, sh, cameras, number, count,
    DEGREE: tl.constexpr, LANES: tl.constexpr, NEAR: tl.constexpr, LOW_PASS: tl.constexpr,
):  # fmt: skip
    """d_sh: zeros; a lane adds to its own Gaussian's numbers, camera after camera."""
    g = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    mask = g < count
    mean, scales, q, length, turned, opacity = _load(means, log_scales, quaternions, logits, g, mask)
    one = _shortest(scales)
    zero = mean[0] * 0.0
    d_mean = (zero, zero, zero)
    # dM by rows.
    d_axes = ((zero, zero, zero), (zero, zero, zero), (zero, zero, zero))
    d_normal = (zero, zero, zero)
    d_logit = zero
    camera = number * 0
    while camera < number:
        at = camera.to(tl.int64) * count + g
        right, below, ahead, rest = _camera(cameras, camera)
        offset, _, across, down, u, v, k_x, k_y, z = _jacobian(mean, right, below, ahead, rest, NEAR)
        row_x, row_y = _rows(right, u, ahead, k_x), _rows(below, v, ahead, k_y)
        first, second = _through(row_x, turned, scales), _through(row_y, turned, scales)
        a, b, c = _dot(first, first) + LOW_PASS, _dot(first, second), _dot(second, second) + LOW_PASS
        determinant = a * c - b * b
        k_a, k_b, k_c = c / determinant, -b / determinant, a / determinant
        g_a, g_b, g_c = _three(d_conic + at * 3, mask)
        g_b = 0.5 * g_b
        # dC = -K dK K.
        p, r = k_a * g_a + k_b * g_b, k_a * g_b + k_b * g_c
        s, t = k_b * g_a + k_c * g_b, k_b * g_b + k_c * g_c
        c_a, c_b, c_c = -(p * k_a + r * k_b), -(p * k_b + r * k_c), -(s * k_b + t * k_c)
        d_first = (
            2 * (c_a * first[0] + c_b * second[0]),
            2 * (c_a * first[1] + c_b * second[1]),
            2 * (c_a * first[2] + c_b * second[2]),
        )
        d_second = (
            2 * (c_b * first[0] + c_c * second[0]),
            2 * (c_b * first[1] + c_c * second[1]),
            2 * (c_b * first[2] + c_c * second[2]),
        )
        d_axes = (
            _added(d_axes[0], row_x[0], d_first, row_y[0], d_second),
            _added(d_axes[1], row_x[1], d_first, row_y[1], d_second),
            _added(d_axes[2], row_x[2], d_first, row_y[2], d_second),
        )
        scaled = (d_first[0] * scales[0], d_first[1] * scales[1], d_first[2] * scales[2])
        d_row_x = (_dot(scaled, turned[0]), _dot(scaled, turned[1]), _dot(scaled, turned[2]))
        scaled = (d_second[0] * scales[0], d_second[1] * scales[1], d_second[2] * scales[2])
        d_row_y = (_dot(scaled, turned[0]), _dot(scaled, turned[1]), _dot(scaled, turned[2]))
        # Through J to the mean. row = k (axis - u ahead), so k dk = row . d_row.
        d_z = -(_dot(d_row_x, row_x) + _dot(d_row_y, row_y)) / z
        d_across = tl.where(u == across, -k_x * _dot(d_row_x, ahead), 0.0)
        d_down = tl.where(v == down, -k_y * _dot(d_row_y, ahead), 0.0)
        d_across += tl.load(rest + 3) * tl.load(d_xy + at * 2, mask=mask, other=0.0)
        d_down += tl.load(rest + 4) * tl.load(d_xy + at * 2 + 1, mask=mask, other=0.0)
        d_z += tl.load(d_features + at * 7 + 3, mask=mask, other=0.0) - (across * d_across + down * d_down) / z
        d_view = (d_across / z, d_down / z, d_z)
        # Colours, and through the direction of view.
        direction, away = _direction(offset)
        bands = _harmonics(direction, DEGREE)
        d_bands = ()
        for _ in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
            d_bands = d_bands + (zero,)
        for channel in tl.static_range(3):
            colour = zero + 0.5
            for k in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
                from_here = sh + (g * ((DEGREE + 1) * (DEGREE + 1)) + k) * 3 + channel
                colour += bands[k] * tl.load(from_here, mask=mask, other=0.0)
            d_colour = tl.load(d_features + at * 7 + channel, mask=mask, other=0.0)
            d_colour = tl.where(colour >= 0, d_colour, 0.0)
            more = ()
            for k in tl.static_range((DEGREE + 1) * (DEGREE + 1)):
                place = (g * ((DEGREE + 1) * (DEGREE + 1)) + k) * 3 + channel
                so_far = tl.load(d_sh + place, mask=mask, other=0.0)
                tl.store(d_sh + place, so_far + bands[k] * d_colour, mask=mask)
                more = more + (d_bands[k] + d_colour * tl.load(sh + place, mask=mask, other=0.0),)
            d_bands = more
        slope = _harmonics_slope(direction, d_bands, DEGREE)
        along = _dot(slope, direction)
        d_mean = (
            d_mean[0] + _down(d_view, right[0], below[0], ahead[0]) + (slope[0] - along * direction[0]) / away,
            d_mean[1] + _down(d_view, right[1], below[1], ahead[1]) + (slope[1] - along * direction[1]) / away,
            d_mean[2] + _down(d_view, right[2], below[2], ahead[2]) + (slope[2] - along * direction[2]) / away,
        )
        _, sign = _normal(turned, scales, offset)
        pull = _three(d_features + at * 7 + 4, mask)
        d_normal = (d_normal[0] + sign * pull[0], d_normal[1] + sign * pull[1], d_normal[2] + sign * pull[2])
        d_logit += tl.load(d_opacity + at, mask=mask, other=0.0)
        camera += 1
    tl.store(d_logits + g, d_logit * opacity * (1 - opacity), mask=mask)
    for i in tl.static_range(3):
        tl.store(d_means + g * 3 + i, d_mean[i], mask=mask)
        d_scale = turned[0][i] * d_axes[0][i] + turned[1][i] * d_axes[1][i] + turned[2][i] * d_axes[2][i]
        tl.store(d_log_scales + g * 3 + i, d_scale * scales[i], mask=mask)
    r0 = _d_row(d_axes[0], scales, d_normal[0], one)
    r1 = _d_row(d_axes[1], scales, d_normal[1], one)
    r2 = _d_row(d_axes[2], scales, d_normal[2], one)
    w, x, y, z = q[0], q[1], q[2], q[3]
    d_w = 2 * (x * (r2[1] - r1[2]) + y * (r0[2] - r2[0]) + z * (r1[0] - r0[1]))
    d_x = 2 * (y * (r0[1] + r1[0]) + z * (r0[2] + r2[0]) + w * (r2[1] - r1[2]) - 2 * x * (r1[1] + r2[2]))
    d_y = 2 * (x * (r0[1] + r1[0]) + z * (r1[2] + r2[1]) + w * (r0[2] - r2[0]) - 2 * y * (r0[0] + r2[2]))
    d_z = 2 * (x * (r0[2] + r2[0]) + y * (r1[2] + r2[1]) + w * (r1[0] - r0[1]) - 2 * z * (r0[0] + r1[1]))
    along = w * d_w + x * d_x + y * d_y + z * d_z
    tl.store(d_quaternions + g * 4, (d_w - along * w) / length, mask=mask)
    tl.store(d_quaternions + g * 4 + 1, (d_x - along * x) / length, mask=mask)
    tl.store(d_quaternions + g * 4 + 2, (d_y - along * y) / length, mask=mask)
    tl.store(d_quaternions + g * 4 + 3, (d_z - along * z) / length, mask=mask)


@triton.jit
def _added(row, a, x, b, y):
    """row + a x + b y."""
    return row[0] + a * x[0] + b * y[0], row[1] + a * x[1] + b * y[1], row[2] + a * x[2] + b * y[2]


@triton.jit
def _down(d_view, right, below, ahead):
    """One coordinate of W' d."""
    return right * d_view[0] + below * d_view[1] + ahead * d_view[2]


@triton.jit
def _d_row(d_axes, scales, d_normal, one):
    """A row of dR."""
    return (
        d_axes[0] * scales[0] + d_normal * one[0],
        d_axes[1] * scales[1] + d_normal * one[1],
        d_axes[2] * scales[2] + d_normal * one[2],
    )


def project(cloud: Cloud, cameras: Cameras) -> Footprints:
    """As `degauss.threed.projection.project`, on a CUDA device. Raises ValueError unless the cloud is float32."""
    if any(part.dtype != torch.float32 for part in cloud):
        raise ValueError(f"the kernels take Gaussians in float32, got {cloud.means.dtype}")
    least, most = view_limits(cameras)
    parts = (to_camera(cameras).flatten(1), cameras.place, cameras.focal, cameras.centre, least, most)
    return Footprints(*_Project.apply(*cloud, torch.cat(parts, 1).float()))  # type: ignore[misc]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, log_scales, quaternions, logits, sh, cameras):
        parts = [part.contiguous() for part in (means, log_scales, quaternions, logits, sh)]
        shape = (len(cameras), len(means))
        made = [means.new_empty(*shape, *last) for last in ((2,), (3,), (), (FEATURES,), (), (2,))]
        with torch.cuda.device_of(means):
            _forward_kernel[(triton.cdiv(len(means), _LANES), len(cameras))](
                *made, *parts, cameras, len(means),
                DEGREE=_degree(sh), LANES=_LANES, NEAR=NEAR, LOW_PASS=LOW_PASS, MIN_ALPHA=MIN_ALPHA,
            )  # fmt: skip
        ctx.save_for_backward(*parts, cameras)
        ctx.mark_non_differentiable(made[4], made[5])
        return tuple(made)

    @staticmethod
    def backward(ctx, *d: Tensor):
        *parts, cameras = ctx.saved_tensors
        grads = [*(torch.empty_like(part) for part in parts[:4]), torch.zeros_like(parts[4])]
        with torch.cuda.device_of(parts[0]):
            _backward_kernel[(triton.cdiv(len(parts[0]), _LANES),)](
                *grads, *(part.contiguous() for part in d[:4]), *parts, cameras, len(cameras), len(parts[0]),
                DEGREE=_degree(parts[4]), LANES=_LANES, NEAR=NEAR, LOW_PASS=LOW_PASS,
            )  # fmt: skip
        return *grads, None


def _degree(sh: Tensor) -> int:
    return round(sh.shape[1] ** 0.5) - 1
