"""S4 against a dense state space model that numpy steps in float64, and against numpy's own convolution."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from degauss.core.nets.embedding import sinusoidal
from degauss.core.nets.s4 import S4, S4Kernel, convolve, fft_length, hippo_legs


def small(channels=3, state=8, length=20, seed=0):
    torch.manual_seed(seed)
    return S4Kernel(channels, state, length)


def stepped(kernel: S4Kernel, length: int) -> np.ndarray:
    """`[2, channels, length]`: the impulse responses by definition, from the module's parameters alone."""
    p = {name: value.detach().double().numpy() for name, value in kernel.named_parameters()}

    def pairs(x):  # the stored half and its conjugates
        z = x[..., 0] + 1j * x[..., 1]
        return np.concatenate((z, z.conj()), axis=-1)

    half = -np.exp(p["log_decay"]) + 1j * p["frequency"]
    eigenvalues = np.concatenate((half, half.conj()), axis=-1)
    low_rank, drive, readout = pairs(p["low_rank"]), pairs(p["drive"]), pairs(p["readout"])
    out = np.empty((2, len(half), length))
    for h, dt in enumerate(np.exp(p["log_step"])):
        a = np.diag(eigenvalues[h]) - np.outer(low_rank[h], low_rank[h].conj())
        eye = np.eye(len(a))
        abar = np.linalg.solve(eye - dt / 2 * a, eye + dt / 2 * a)
        state = np.linalg.solve(eye - dt / 2 * a, dt * drive[h])
        complement = eye - np.linalg.matrix_power(abar, kernel.length)
        c = np.linalg.solve(complement.T, readout[:, h].T)  # [state, 2]
        for i in range(length):
            response = state @ c
            assert np.abs(response.imag).max() < 1e-8
            out[:, h, i] = response.real
            state = abar @ state
    return out


def impulse_response(kernel: S4Kernel, length: int) -> np.ndarray:
    return kernel.kernels(length).detach().numpy()


def relative(found, expected) -> float:
    return float(np.max(np.abs(found - expected) / np.abs(expected).max(-1, keepdims=True)))


@pytest.mark.parametrize("state", [2, 8, 64, 128])
def test_hippo_legs_is_rebuilt_from_its_normal_and_low_rank_parts(state):
    i = np.arange(state)
    root = np.sqrt(2 * i + 1)
    dense = -np.tril(np.outer(root, root), -1) - np.diag(i + 1.0)
    legs = hippo_legs(state)
    v = np.concatenate((legs.basis.numpy(), legs.basis.numpy().conj()), axis=1)
    p, b = (np.concatenate((x.numpy(), x.numpy().conj())) for x in (legs.p, legs.b))
    eigenvalue = np.concatenate((legs.eigenvalue.numpy(), legs.eigenvalue.numpy().conj()))
    np.testing.assert_allclose(v @ v.conj().T, np.eye(state), atol=1e-12)
    rebuilt = v @ (np.diag(eigenvalue) - np.outer(p, p.conj())) @ v.conj().T
    np.testing.assert_allclose(rebuilt, dense, atol=1e-11 * state**2)
    np.testing.assert_allclose(v @ b, root, atol=1e-11 * state)


@pytest.mark.parametrize("length", [20, 21])  # with and without a node at the Nyquist frequency
def test_kernel_is_the_impulse_response_of_the_dense_system(length):
    kernel = small(length=length).double()
    assert relative(impulse_response(kernel, length), stepped(kernel, length)) < 1e-10


def test_kernel_of_the_published_size_in_both_precisions():
    kernel = small(channels=4, state=128, length=390)
    exact = stepped(kernel, 390)
    assert relative(impulse_response(kernel, 390), exact) < 1e-4
    assert relative(impulse_response(kernel.double(), 390), exact) < 1e-9


@pytest.mark.parametrize("length", [1, 7, 21, 55])  # shorter, and longer by one and by two doublings
def test_other_lengths_continue_the_same_kernel(length):
    kernel = small().double()
    assert relative(impulse_response(kernel, length), stepped(kernel, length)) < 1e-9


@pytest.mark.parametrize("length", [1, 2, 13, 20, 33])
def test_convolution_is_numpys_of_past_and_future(length):
    kernel = small().double()
    past, future = stepped(kernel, length)
    past[:, 0] += kernel.skip.detach().numpy()
    u = torch.randn(2, length, 3, dtype=torch.float64)
    found = convolve(u, kernel(length)).detach().numpy()
    for b in range(2):
        for h in range(3):
            series = u[b, :, h].numpy()
            causal = np.convolve(series, past[h])[:length]
            # The future kernel starts one value ahead and runs on the reversed series.
            anticausal = np.convolve(series[::-1], np.append(0.0, future[h]))[:length][::-1]
            np.testing.assert_allclose(found[b, :, h], causal + anticausal, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 60, 127, 384, 390, 500, 1009])
def test_fft_length(length):
    size = fft_length(length)
    factors = size
    for prime in (2, 3, 5, 7):
        while factors % prime == 0:
            factors //= prime
    assert factors == 1
    assert size % 2 == 0
    assert 2 * length - 1 <= size <= 1.2 * 2 * length


def test_convolution_gradients():
    u = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    k = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)

    def run(u, k):
        return convolve(u, torch.fft.rfft(k))

    assert torch.autograd.gradcheck(run, (u, k))
    assert torch.autograd.gradgradcheck(run, (u, k))


def test_convolution_under_torch_func():
    u, k = torch.randn(4, 6, 2, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64)
    spectrum = torch.fft.rfft(k)
    each = torch.func.vmap(lambda v: convolve(v, spectrum))(u)
    torch.testing.assert_close(each, convolve(u, spectrum))
    direct = torch.func.grad(lambda v: convolve(v, spectrum).square().sum())(u)
    leaf = u.clone().requires_grad_()
    convolve(leaf, spectrum).square().sum().backward()
    torch.testing.assert_close(direct, leaf.grad)


def test_every_parameter_gets_its_gradient():
    layer = S4(2, 4, 6).double()
    names, values = zip(*layer.named_parameters(), strict=True)
    u = torch.randn(2, 6, 2, dtype=torch.float64)

    def run(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), u)

    assert torch.autograd.gradcheck(run, values)
    gradients = torch.autograd.grad(layer(u).square().sum(), values)
    assert all((g != 0).all() for g in gradients)


def test_longer_series_than_trained_on_are_differentiable():
    kernel = small(1, 4, 3).double()
    values = tuple(kernel.parameters())
    gradients = torch.autograd.grad(kernel(8).abs().sum(), values)
    assert all(g.isfinite().all() and (g != 0).any() for g in gradients)


# The kept spectrum: reused while nothing changes, never once something did.


def test_frozen_weights_share_one_spectrum():
    kernel = small()
    with torch.no_grad():
        first = kernel(20)
        assert kernel(20) is first
        assert kernel(19) is not first
    kernel.requires_grad_(False)
    torch.testing.assert_close(kernel(20), first, rtol=0, atol=0)
    assert kernel(20) is kernel(20)
    torch.testing.assert_close(first, kernel._spectrum(20), rtol=0, atol=0)


def test_trainable_weights_are_never_served_from_the_store():
    kernel = small()
    assert kernel(20).requires_grad
    with torch.no_grad():
        kernel(20)
    assert kernel(20).requires_grad


def in_place(kernel):
    with torch.no_grad():
        kernel.frequency.mul_(1.1)


def optimiser_step(kernel):
    kernel.requires_grad_(True)
    optimizer = torch.optim.Adam(kernel.parameters(), lr=1e-2)
    kernel(20).abs().sum().backward()
    optimizer.step()
    kernel.requires_grad_(False)


def new_state(kernel):
    kernel.load_state_dict(small(seed=1).state_dict())


def other_dtype(kernel):
    kernel.double().log_step.data.add_(0.1)


def replaced_data(kernel):
    kernel.skip.data = torch.zeros_like(kernel.skip)


def replaced_parameter(kernel):
    kernel.drive = torch.nn.Parameter(kernel.drive.detach() * 2, requires_grad=False)


def write_through_data_then_mode(kernel):
    kernel.drive.data.mul_(2)
    kernel.eval()


CHANGES = [
    in_place,
    optimiser_step,
    new_state,
    other_dtype,
    replaced_data,
    replaced_parameter,
    write_through_data_then_mode,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_always_seen(change):
    kernel = small().eval().requires_grad_(False)
    before = kernel(20)
    change(kernel)
    after = kernel(20)
    assert not torch.equal(before.to(after.dtype), after)
    torch.testing.assert_close(after, kernel._spectrum(20), rtol=0, atol=0)


def test_no_other_values_can_come_to_a_kept_address():
    kernel = small(channels=64).eval().requires_grad_(False)
    kernel(20)
    for parameter in kernel.parameters():
        address = parameter.data_ptr()
        for _ in range(50):  # each could take the memory that one before it gave back
            parameter.data = parameter.data + 0.01
            assert parameter.data_ptr() != address
    torch.testing.assert_close(kernel(20), kernel._spectrum(20), rtol=0, atol=0)


def test_a_spectrum_kept_in_inference_mode_serves_a_later_gradient():
    kernel = small().requires_grad_(False)
    with torch.inference_mode():
        kept = kernel(20)
    u = torch.randn(1, 20, 3, requires_grad=True)
    assert kernel(20) is kept
    convolve(u, kernel(20)).square().sum().backward()
    assert u.grad is not None


def test_a_spectrum_made_inside_torch_func_serves_outside():
    kernel = small().requires_grad_(False)
    u = torch.randn(1, 20, 3)
    inside = torch.func.grad(lambda v: convolve(v, kernel(20)).square().sum())(u)
    assert kernel(20).data_ptr()  # an ordinary tensor
    leaf = u.clone().requires_grad_()
    convolve(leaf, kernel(20)).square().sum().backward()
    torch.testing.assert_close(leaf.grad, inside)


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        kernel = small()
        torch.testing.assert_close(kernel(20), kernel._spectrum(20), rtol=0, atol=0)


def test_the_store_does_not_travel():
    kernel = small().requires_grad_(False)
    kept = kernel(20)
    assert not any("frozen" in name for name in kernel.state_dict())
    twin = copy.deepcopy(kernel)
    buffer = io.BytesIO()
    torch.save(kernel, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (twin, loaded):
        assert other._frozen is None
        torch.testing.assert_close(other(20), kept, rtol=0, atol=0)
        other.skip.add_(1)
        assert not torch.equal(other(20), kept)
    assert kernel(20) is kept


def test_autocast_keeps_the_kernel_in_float32():
    layer = S4(4, 8, 20)
    u = torch.randn(2, 20, 4)
    expected = convolve(u, layer.kernel(20))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolve(u, layer.kernel(20)), expected)
        low = convolve(u.bfloat16(), layer.kernel(20))
        assert layer(u).dtype == torch.bfloat16
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(("channels", "state", "length"), [(0, 8, 20), (3, 7, 20), (3, 0, 20), (3, 8, 0)])
def test_impossible_sizes(channels, state, length):
    with pytest.raises(ValueError, match="positive"):
        S4Kernel(channels, state, length)


def test_sinusoidal_embedding():
    found = sinusoidal(torch.tensor([0.0, 1.0, 7.5], dtype=torch.float64), 6)
    k = np.array([1.0, 1e-2, 1e-4])
    angle = np.array([0.0, 1.0, 7.5])[:, None] * k
    expected = np.concatenate((np.sin(angle), np.cos(angle)), axis=1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)
    assert sinusoidal(torch.tensor(3), 8).shape == (8,)
    assert sinusoidal(torch.tensor([3.0], dtype=torch.bfloat16), 8).dtype == torch.float32
    with pytest.raises(ValueError, match="even"):
        sinusoidal(torch.tensor(3), 5)
