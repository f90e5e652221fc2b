"""A 2-D convolution equal to `lax.conv_general_dilated`, whose gradients XLA also computes fast on a CPU.

XLA's own weight gradient loses speed at large batches and at three input channels, and is some 20 times slower inside
`lax.scan` or `lax.map`. Here those of 3x3 windows are matrix products (`winograd`), the others ordinary convolutions in
the layout of a forward pass (behind a barrier that keeps XLA from folding the transposes back), the weight gradient
over slices of the batch. On one or two cores the matrix products are faster for the forward pass too. Other devices get
XLA's own convolution and gradients. Forward-mode differentiation (`jax.jvp`) is undefined.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from infoutil_jax.models import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_SLICE = 16  # rows per weight-gradient convolution: the fastest on two cores
_FEW_CHANNELS = 4
_WORTH_COMPILING = 2e8  # multiplications, some 6 ms: below, `winograd` only costs its second more of compilation
_FEW_CORES = 2  # XLA runs a batch of matrix products on one core, its convolution on all


def convolve(inputs, kernel, window_strides, padding, *, dimension_numbers=None, precision=None, **options):
    """`lax.conv_general_dilated` with faster CPU gradients; for `flax.linen.Conv(conv_general_dilated=convolve)`.

    inputs (B, H, W, C), kernel (kh, kw, C, D) and explicit padding give (B, H', W', D). Whatever else is asked for
    (other layouts, dilation, groups, named padding) goes to the stock operation unchanged.
    """
    if not _is_plain(inputs, kernel, padding, dimension_numbers, options):
        return lax.conv_general_dilated(
            inputs, kernel, window_strides, padding, dimension_numbers=dimension_numbers, precision=precision, **options
        )
    return _convolve(inputs, kernel, tuple(window_strides), tuple(map(tuple, padding)), precision)


def _is_plain(inputs, kernel, padding, dimension_numbers, options):
    shapes = inputs.shape, kernel.shape
    return (
        inputs.ndim == 4
        and not isinstance(padding, str)
        and lax.conv_dimension_numbers(*shapes, dimension_numbers) == lax.conv_dimension_numbers(*shapes, _LAYOUT)
        and all(value in (None, 1, (1, 1), [1, 1]) for value in options.values())
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x, kernel, strides, padding, precision):
    stock = partial(_stock, strides=strides, padding=padding, precision=precision)
    if _n_cores() > _FEW_CORES or not _by_winograd(x, kernel, strides, padding):
        return stock(x, kernel)
    fast = partial(winograd.convolve, padding=padding, precision=precision)
    return lax.platform_dependent(x, kernel, cpu=fast, default=stock)


def _n_cores() -> int:
    """That this process may use; XLA has as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _by_winograd(x, kernel, strides, padding) -> bool:
    """Whether a CPU is faster with matrix products."""
    large = x.size * kernel[:, :, 0].size > _WORTH_COMPILING
    return large and x.shape[-1] > _FEW_CHANNELS and winograd.covers(kernel.shape, strides, padding, x.dtype)


def _stock(x, kernel, *, strides, padding, precision):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT, precision=precision)


def _forward(x, kernel, strides, padding, precision):
    return _convolve(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, saved, grad):
    window = dict(strides=strides, padding=padding, precision=precision)
    fast, stock = partial(_cpu_gradients, **window), partial(_stock_gradients, **window)
    return lax.platform_dependent(*saved, grad, cpu=fast, default=stock)


_convolve.defvjp(_forward, _backward)


def _stock_gradients(x, kernel, grad, *, strides, padding, precision):
    return jax.vjp(partial(_stock, strides=strides, padding=padding, precision=precision), x, kernel)[1](grad)


def _cpu_gradients(x, kernel, grad, *, strides, padding, precision):
    window = dict(strides=strides, padding=padding, precision=precision)
    if _by_winograd(x, kernel, strides, padding):
        return winograd.gradients(x, kernel, grad, padding, precision)
    grad_x = _input_gradient(x.shape, kernel, grad, **window)
    if x.shape[-1] <= _FEW_CHANNELS and strides == (1, 1):
        return grad_x, _matmul_kernel_gradient(x, kernel.shape, grad, padding=padding, precision=precision)
    return grad_x, _sum_over_slices(partial(_kernel_gradient, kernel_shape=kernel.shape, **window), x, grad)


def _sum_over_slices(gradient_fn, x, grad):
    """Sum of gradient_fn over the batch, `_SLICE` rows at a time; the first slice takes what does not divide."""
    first = (len(x) - 1) % _SLICE + 1
    slices = [array[first:].reshape(-1, _SLICE, *array.shape[1:]) for array in (x, grad)]
    total = gradient_fn(x[:first], grad[:first])
    return lax.scan(lambda total, rows: (total + gradient_fn(*rows), None), total, slices)[0]


def _input_gradient(x_shape, kernel, grad, *, strides, padding, precision):
    """Convolution of the dilated output gradient with the kernel turned by 180 degrees, its channels exchanged."""
    flipped = lax.optimization_barrier(kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    pads = []
    for size, k, out, stride, (low, _) in zip(x_shape[1:3], kernel.shape, grad.shape[1:3], strides, padding):
        pads.append((k - 1 - low, size - 1 - (out - 1) * stride + low))
    return lax.conv_general_dilated(
        grad, flipped, (1, 1), pads, lhs_dilation=strides, dimension_numbers=_LAYOUT, precision=precision
    )


def _kernel_gradient(x, grad, *, kernel_shape, strides, padding, precision):
    """Convolution over the batch as channels: inputs (C, H, W, B), output gradient (H', W', B, D) as its kernel."""
    x, kernel = lax.optimization_barrier((x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3)))
    pads = []
    for size, k, out, stride, (low, _) in zip(x.shape[1:3], kernel_shape, kernel.shape, strides, padding):
        pads.append((low, k - size - low + (out - 1) * stride))
    y = lax.conv_general_dilated(
        x, kernel, (1, 1), pads, rhs_dilation=strides, dimension_numbers=_LAYOUT, precision=precision
    )
    return y.transpose(1, 2, 0, 3)


def _matmul_kernel_gradient(x, kernel_shape, grad, *, padding, precision):
    """One product of all windows (B*H'*W', kh*kw*C) with the output gradient (B*H'*W', D): best with few channels."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = grad.shape[1:3]
    windows = [x[:, i : i + height, j : j + width] for i in range(kernel_shape[0]) for j in range(kernel_shape[1])]
    windows = jnp.concatenate(windows, axis=-1)
    rows = (((0, 1, 2), (0, 1, 2)), ((), ()))
    return lax.dot_general(windows, grad, rows, precision=precision).reshape(kernel_shape)
