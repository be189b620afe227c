"""S4: long two-sided convolutions whose kernels are impulse responses of linear state space models.

Each channel is a system with one input, one output and complex states,

    x'(t) = A x(t) + B u(t),   y(t) = C x(t) + D u(t),   A = diag(Lambda) - P P^*,

(normal plus low rank), started at HiPPO-LegS, the memory that keeps a Legendre fit of the whole past, and
discretised by the bilinear rule with a learned step dt:

    Abar = (I - dt A / 2)^-1 (I + dt A / 2),   Bbar = (I - dt A / 2)^-1 dt B,   kernel[l] = C Abar^l Bbar.

The system is never stepped. The Fourier transform of the kernel's first L values is, at w = exp(-i theta),

    K(w) = Ct (I - w Abar)^-1 Bbar,   Ct = C (I - Abar^L),

and with c = cos(theta/2), s = sin(theta/2), tau = dt/2, M = diag(i s - c tau Lambda), the Woodbury identity
turns it into four sums over the states, <a, b> = sum_n a_n b_n / M_n:

    K = exp(i theta / 2) tau (<Ct, B> - c tau <Ct, P> <P^*, B> / (1 + c tau <P^*, P>)).

This is finite at the Nyquist node too (c = 0), where the usual variable 2/dt (1 - w)/(1 + w) is infinite.
States come in conjugate pairs, of which half is stored. As in the published code Ct, not C, is the parameter:
training needs no matrix power. A second Ct gives the kernel that looks ahead.

References: Gu, Goel, Re 2022, "Efficiently Modeling Long Sequences with Structured State Spaces", theorem 1,
algorithm 1, appendix C; Gu et al. 2020, "HiPPO"; Goel et al. 2022 (two-sided, decay rates in logarithm).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Legs(NamedTuple):
    """HiPPO-LegS as normal plus low rank, one state of each conjugate pair; complex128."""

    eigenvalue: Tensor  # [n / 2], real part -1/2
    p: Tensor  # [n / 2]
    b: Tensor  # [n / 2]
    basis: Tensor  # [n, n / 2], orthonormal columns


def hippo_legs(n: int) -> Legs:
    """Write HiPPO-LegS as `A = V (diag(Lambda) - p p^*) V^*`, `V = [basis, conj(basis)]` unitary.

    A is lower triangular: `A[i, k] = -sqrt((2i + 1)(2k + 1))` for i > k, `A[i, i] = -(i + 1)`; and
    `B[i] = sqrt(2i + 1)`. Adding q q^T, `q[i] = sqrt(i + 1/2)`, leaves -1/2 I plus a skew-symmetric matrix.

    Raises:
        ValueError: if `n` is odd or not positive.
    """
    if n < 2 or n % 2:
        raise ValueError(f"the number of states must be even and positive, got {n}")
    q = (torch.arange(n, dtype=torch.float64) + 0.5).sqrt()
    square = torch.outer(q, q)
    frequency, basis = torch.linalg.eigh(-1j * (square.triu(1) - square.tril(-1)))
    frequency, basis = frequency[n // 2 :], basis[:, n // 2 :]
    p = basis.mH @ q.to(basis.dtype)
    return Legs(torch.complex(torch.full_like(frequency, -0.5), frequency), p, math.sqrt(2) * p, basis)


def fft_length(length: int) -> int:
    """The smallest even FFT size of at least `2 * length - 1` without a prime factor above 7.

    A circular convolution of this size keeps the past and the future of a series of `length` values apart.
    """
    size = 2 * length
    while 210**20 % size:  # 210 = 2 * 3 * 5 * 7
        size += 2
    return size


class _Convolve(torch.autograd.Function):
    """`irfft(rfft(u) * spectrum)` along time. By hand because autograd's backward of a real FFT is complex
    and keeps the padded spectra; here every transform is real and only the inputs are kept. There is no
    forward mode: `torch.compile` refuses functions that define one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, spectrum: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _to_time(_to_frequency(u, spectrum) * spectrum, u.shape[-2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u, spectrum = ctx.saved_tensors
        ahead = _to_frequency(grads[0], spectrum)
        grad_u = grad_spectrum = None
        if ctx.needs_input_grad[0]:
            grad_u = _to_time(ahead * spectrum.conj(), u.shape[-2])
        if ctx.needs_input_grad[1]:
            product = (_to_frequency(u, spectrum).conj() * ahead).sum_to_size(spectrum.shape)
            # A mean over 2 * last frequencies: all but the first and the last stored one stand for two.
            last = spectrum.shape[-1] - 1
            index = torch.arange(last + 1, device=u.device)
            grad_spectrum = product / torch.where(index % last == 0, 2 * last, last)
        return grad_u, grad_spectrum


def _to_frequency(u: Tensor, spectrum: Tensor) -> Tensor:
    return torch.fft.rfft(u.transpose(-1, -2), n=2 * (spectrum.shape[-1] - 1))


def _to_time(product: Tensor, length: int) -> Tensor:
    y = torch.fft.irfft(product, n=2 * (product.shape[-1] - 1))
    return y[..., :length].transpose(-1, -2).contiguous()


def convolve(u: Tensor, spectrum: Tensor) -> Tensor:
    """Filter every channel of a series with its two-sided kernel; values outside the series count as zero.

        y[b, l, h] = sum_m kernel[h, l - m] u[b, m, h]

    Args:
        u: `[..., length, channels]`.
        spectrum: `[channels, fft_length(length) / 2 + 1]`, complex: the kernel's FFT as `S4Kernel` gives it.

    Returns:
        `[..., length, channels]`, dtype of `u`. The FFT itself runs in the precision of `spectrum`: float32
        inside a bfloat16 autocast too.
    """
    with torch.autocast(u.device.type, enabled=False):
        return cast(Tensor, _Convolve.apply(u.to(spectrum.real.dtype), spectrum)).to(u.dtype)


def _identity(tensor: Tensor) -> tuple[torch.device, int, int] | None:
    """Device, address and version of a tensor's values; None where there is no address (inside `torch.func`)
    or no version (made in inference mode)."""
    try:
        return tensor.device, tensor.data_ptr(), tensor._version  # pyright: ignore[reportPrivateUsage]
    except RuntimeError:
        return None


class _Frozen(NamedTuple):
    """A spectrum and what it was computed from. The aliases share the parameters' storage: by living on they
    keep the allocator from giving the same addresses to other values."""

    length: int
    identities: tuple[tuple[torch.device, int, int] | None, ...]
    aliases: tuple[Tensor, ...]
    spectrum: Tensor


class S4Kernel(nn.Module):
    """Two-sided convolution kernels of `channels` independent state space models, HiPPO-LegS at the start.

    Called with a length it gives the FFT of the kernels for `convolve`. Where no gradient for the parameters
    can be asked for (gradients off, or parameters frozen by `requires_grad_(False)`) the last result is kept
    until a parameter changes, so that all steps of a sampler share it. Changes are seen by address and by
    version counter. Only writes through `parameter.data` leave no trace: after them call `train()` or
    `eval()`, which drop the kept result. Nothing is kept under `torch.compile`, and a replayed CUDA graph
    checks nothing.

    Args:
        channels: number of systems H.
        state: order N of each system, even; N / 2 complex states are stored.
        length: the L of Ct, best the length of the training series. Shorter series use the start of the same
            kernels; longer ones continue them exactly, at the price of powers of dense N x N matrices.
        step_min, step_max: dt is drawn log-uniformly from this range; 1 / dt is the memory's reach in values.

    Parameters: `log_step` [H]; `log_decay`, `frequency` [H, N/2] (Lambda = -exp(log_decay) + i frequency);
    `low_rank` P and `drive` B [H, N/2, 2]; `readout` Ct [2, H, N/2, 2] (past, future); `skip` D [H]. Complex
    numbers are stored as pairs of reals, which every optimiser and file format knows.

    Raises:
        ValueError: if a size is not positive or `state` is odd.
    """

    def __init__(self, channels: int, state: int, length: int, step_min: float = 1e-3, step_max: float = 1e-1) -> None:
        super().__init__()
        if channels < 1 or length < 1:
            raise ValueError(f"channels and length must be positive, got {channels} and {length}")
        legs = hippo_legs(state)
        self.length = length
        self._frozen: _Frozen | None = None

        def shared(x: Tensor) -> nn.Parameter:
            return nn.Parameter(x.to(torch.get_default_dtype()).repeat(channels, *[1] * x.ndim))

        low, high = math.log(step_min), math.log(step_max)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(channels))
        self.log_decay = shared((-legs.eigenvalue.real).log())
        self.frequency = shared(legs.eigenvalue.imag)
        self.low_rank = shared(torch.view_as_real(legs.p))
        self.drive = shared(torch.view_as_real(legs.b))
        self.readout = nn.Parameter(torch.randn(2, channels, state // 2, 2) / math.sqrt(2))
        self.skip = nn.Parameter(torch.randn(channels))
        with torch.no_grad():
            readout = torch.view_as_complex(self.readout)
            readout -= self._advance(readout, length)

    def forward(self, length: int) -> Tensor:
        """The FFT of the kernels for series of `length` values: `[channels, fft_length(length) / 2 + 1]`."""
        parameters = tuple(self.parameters())
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if torch.compiler.is_compiling() or trained:
            return self._spectrum(length)
        frozen, identities = self._frozen, tuple(_identity(p) for p in parameters)
        if frozen is not None and frozen.length == length and frozen.identities == identities:
            return frozen.spectrum
        # A tensor made in inference mode could not serve a later gradient with respect to the input.
        with torch.inference_mode(False), torch.no_grad():
            spectrum, aliases = self._spectrum(length), tuple(p.detach() for p in parameters)
        if None not in identities and _identity(spectrum) is not None:
            self._frozen = _Frozen(length, identities, aliases, spectrum)
        return spectrum

    def train(self, mode: bool = True) -> Self:
        self._frozen = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frozen": None}

    def _spectrum(self, length: int) -> Tensor:
        with torch.autocast(self.skip.device.type, enabled=False):
            past, future = self.kernels(length)
            past = torch.cat((past[:, :1] + _wide(self.skip)[:, None], past[:, 1:]), dim=-1)
            gap = past.new_zeros(len(past), fft_length(length) - 2 * length + 1)
            # In circular order the near future comes last; `length` values ahead there is nothing to see.
            return torch.fft.rfft(torch.cat((past, gap, future[:, : length - 1].flip(-1)), dim=-1))

    def kernels(self, length: int) -> Tensor:
        """`[2, channels, length]`: the weights of u[l], u[l - 1], ... without D, and of u[l + 1], ..."""
        eigenvalue, p, b, tau = self._system()
        readout, nodes = _complex(self.readout), self.length
        while nodes < length:  # I - Abar^2L = (I - Abar^L)(I + Abar^L)
            readout, nodes = readout + self._advance(readout, nodes), 2 * nodes
        k = torch.arange(nodes // 2 + 1, dtype=tau.dtype, device=tau.device)
        # The sine of the complement keeps the digits of a cosine that vanishes towards the last node.
        sin, cos = torch.sin(k * (math.pi / nodes)), torch.sin((nodes / 2 - k) * (math.pi / nodes))
        pairs = torch.stack((*(readout * b), *(readout * p), p.conj() * b, p.conj() * p), dim=1)
        mirror = tau * eigenvalue.conj()
        sums = pairs @ _resolvent(tau * eigenvalue, sin, cos) + pairs.conj() @ _resolvent(mirror, sin, cos)
        scale = tau[..., None]
        feedback = scale * cos * sums[:, 4:5] / (1 + scale * cos * sums[:, 5:6])
        transform = torch.complex(cos, sin) * scale * (sums[:, :2] - sums[:, 2:4] * feedback)
        return torch.fft.irfft(transform, n=nodes)[..., :length].transpose(0, 1)

    def _system(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lambda, P, B `[channels, state / 2]` and tau = dt / 2 `[channels, 1]`, in float32 or better."""
        eigenvalue = torch.complex(-_wide(self.log_decay).exp(), _wide(self.frequency))
        tau = 0.5 * _wide(self.log_step).exp()[:, None]
        return eigenvalue, _complex(self.low_rank), _complex(self.drive), tau

    def _advance(self, readout: Tensor, steps: int) -> Tensor:
        """`readout Abar^steps`, `[..., channels, state / 2]`, by dense matrices."""
        eigenvalue, p, _, tau = self._system()
        p = _both(p)
        a = torch.diag_embed(_both(eigenvalue)) - p[..., :, None] * p[..., None, :].conj()
        half, eye = tau[..., None] * a, torch.eye(p.shape[-1], dtype=a.dtype, device=a.device)
        power = torch.linalg.matrix_power(torch.linalg.solve(eye - half, eye + half), steps)
        return (_both(readout)[..., None, :] @ power)[..., 0, : readout.shape[-1]]


def _resolvent(eigenvalue: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """`1 / (i sin - cos eigenvalue)`, `[channels, states, nodes]`."""
    real, imag = eigenvalue.real[..., None], eigenvalue.imag[..., None]
    return torch.complex(-real * cos, sin - imag * cos).reciprocal()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(_wide(x))


def _both(x: Tensor) -> Tensor:
    return torch.cat((x, x.conj()), dim=-1)


class S4(nn.Module):
    """One S4 layer, `Linear(GELU(convolve(u, kernel)))`: `[..., length, channels]` to the same shape.

    Args and errors: as `S4Kernel`. A network with several layers does better with one `S4Kernel` for all.
    """

    def __init__(self, channels: int, state: int, length: int) -> None:
        super().__init__()
        self.kernel = S4Kernel(channels, state, length)
        self.mix = nn.Linear(channels, channels)

    def forward(self, u: Tensor) -> Tensor:
        return self.mix(F.gelu(convolve(u, self.kernel(u.shape[-2]))))
