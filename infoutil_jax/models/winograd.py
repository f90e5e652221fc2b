"""Gradients of a 3x3 convolution by minimal filtering, F(2x2, 3x3) of Lavin and Gray (arXiv 1509.09308).

A 2x2 tile of the output costs 16 products a pair of channels where the sliding window takes 36, and they are 16 plain
matrix products over all tiles. In float32 the result is within a few 1e-6 of the largest gradient.
"""

import jax.numpy as jnp

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T: 4 pixels to 4 sums
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T


def covers(kernel_shape, strides, padding, dtype) -> bool:
    """3x3 windows at stride 1 with at most 2 pixels of padding; fewer bits than float32 would be lost in the sums."""
    narrow = all(0 <= pad <= 2 for pads in padding for pad in pads)
    return (*kernel_shape[:2], *strides) == (3, 3, 1, 1) and narrow and jnp.finfo(dtype).bits >= 32


def gradients(x, kernel, grad, padding, precision=None):
    """Gradients of x (B, H, W, C) and kernel (3, 3, C, D) from that of the output, `grad` (B, H', W', D)."""
    x_tiles, grad_tiles = _window_tiles(x, padding), _output_tiles(grad)
    products = jnp.einsum("anc,and->acd", x_tiles, grad_tiles, precision=precision)
    to_kernel = jnp.array(_KERNEL, x.dtype)
    grad_kernel = jnp.einsum("bi,aj,abcd->ijcd", to_kernel, to_kernel, products.reshape(4, 4, *kernel.shape[2:]))
    return _input_gradient(x.shape, kernel, grad, padding, precision), grad_kernel


def _input_gradient(x_shape, kernel, grad, padding, precision):
    """The same filtering of the output's gradient, with the kernel turned by 180 degrees, its channels exchanged."""
    to_kernel = jnp.array(_KERNEL, kernel.dtype)
    turned = jnp.einsum("bi,aj,ijdc->abcd", to_kernel, to_kernel, kernel[::-1, ::-1]).reshape(16, *kernel.shape[:1:-1])
    tiles = _window_tiles(grad, [(2 - low, 2 - high) for low, high in padding])
    b, h, w, c = x_shape
    sums = jnp.matmul(tiles, turned, precision=precision).reshape(4, 4, b, -(-h // 2), -(-w // 2), c)
    columns = _mix(_OUTPUT, sums)
    pixels = _mix(_OUTPUT, columns.swapaxes(0, 1)).transpose(2, 3, 0, 4, 1, 5)  # (B, H/2, 2, W/2, 2, C)
    return pixels.reshape(b, h + h % 2, w + w % 2, c)[:, :h, :w]


def _window_tiles(x, padding):
    """(16, tiles, C), 4 columns by 4 rows: the overlapping 4x4 windows of the padded (B, H, W, C), transformed."""
    odd = [(size + low + high) % 2 for size, (low, high) in zip(x.shape[1:3], padding)]
    x = jnp.pad(x, ((0, 0), *((low, high + more) for (low, high), more in zip(padding, odd)), (0, 0)))
    h, w = (size - 3 for size in x.shape[1:3])
    rows = _mix(_INPUT, [x[:, i : i + h : 2] for i in range(4)])
    return _mix(_INPUT, [rows[:, :, :, j : j + w : 2] for j in range(4)]).reshape(16, -1, x.shape[-1])


def _output_tiles(grad):
    """(16, tiles, D), in the same order: the 2x2 tiles of (B, H', W', D) by the transposed output transform."""
    grad = jnp.pad(grad, ((0, 0), *((0, size % 2) for size in grad.shape[1:3]), (0, 0)))
    rows = _mix(zip(*_OUTPUT), [grad[:, i::2] for i in range(2)])
    return _mix(zip(*_OUTPUT), [rows[:, :, :, j::2] for j in range(2)]).reshape(16, -1, grad.shape[-1])


def _mix(matrix, parts):
    """One sum of the parts for each row of the matrix, stacked in front."""
    return jnp.stack([sum(factor * part for factor, part in zip(row, parts) if factor) for row in matrix])
