"""Exact per-example gradient norms of any Flax network, at about the cost of one gradient of the batch.

An example's gradient of a kernel is X^T D: X (T, k) holds the windows that the layer saw at its T positions, D (T, d)
the gradients of its outputs. The loss is differentiated once, down to D; the squared norm of each kernel's gradient is

    ||X^T D||^2             the product, dropped at once, or
    <X X^T, D D^T>          Gram matrices (Goodfellow 2015, arXiv 1510.01799),

whichever multiplies less (Bu et al. 2022, arXiv 2205.10683). A convolution's windows overlap, so their Gram matrix is
that of its pixels, shifted along the diagonal and summed. All other parameters (biases, scales, tokens, kernels that
are used twice or by other layers) are differentiated for every example as they are.
"""

import collections
import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import custom_batching, lax

from infoutil_jax import losses
from infoutil_jax.errors import ConfigError
from infoutil_jax.models.convolution import convolve
from infoutil_jax.utility import square_sum


def gradient_norms(logits_fn, variables, images, labels):
    """The norms (B,) of `utility.gradient_norms`, faster, and the logits (B, K) of the same pass; same arguments.

    Kernels of `nn.Dense` and `nn.Conv` leave no gradient behind; any other parameter takes B times its size of memory.
    Raises ConfigError where `logits_fn` makes a copy of a kernel on one call and not on another.
    """
    leaves, tree = jax.tree.flatten(variables["params"])
    by_layer = _find_kernels(logits_fn, variables, images[:1])
    kernels = {id(leaf) for leaf, found in zip(leaves, by_layer) if found}
    others = [leaf for leaf, found in zip(leaves, by_layer) if not found]

    def loss(others, square, image, label):
        rest = iter(others)
        params = tree.unflatten([leaf if found else next(rest) for leaf, found in zip(leaves, by_layer)])
        tapped = set()

        def tap(kernel, window, inputs, outputs):
            tapped.add(id(kernel))
            return _tap(window, outputs, inputs, square) if id(kernel) in kernels else outputs

        logits = _apply(tap, logits_fn, {**variables, "params": params}, image[None])
        if not kernels <= tapped:
            raise ConfigError("score.norms=layerwise lost sight of a kernel that the network copies; use norms=vmap.")
        return losses.cross_entropy(logits, label[None])[0], logits[0]

    per_example = jax.vmap(jax.grad(loss, argnums=(0, 1), has_aux=True), in_axes=(None, None, 0, 0))
    (others, squares), logits = per_example(others, jnp.float32(0), images, labels)
    squares = jax.vmap(lambda square, gradients: square + square_sum(gradients))(squares, others)
    return jnp.sqrt(jnp.maximum(squares, 0)), logits  # Gram matrices of a zero gradient may round to below 0


def _apply(on_layer, logits_fn, variables, images):
    """logits_fn, with `on_layer(kernel, window, inputs, outputs)` for the outputs of every layer that has windows."""

    def intercept(call, args, kwargs, context):
        outputs, layer = call(*args, **kwargs), context.module
        if context.method_name != "__call__" or type(layer) not in _WINDOWS:
            return outputs
        (inputs,) = (*args, *kwargs.values())
        window = _WINDOWS[type(layer)](layer, inputs.shape)
        if window is None or not inputs.dtype == outputs.dtype == jnp.float32:
            return outputs
        return on_layer(layer.get_variable("params", "kernel"), window, inputs, outputs)

    with nn.intercept_methods(intercept):
        return logits_fn(variables, images)


def _find_kernels(logits_fn, variables, image) -> list[bool]:
    """Which leaves of variables['params'] are the kernel of a layer with windows, and are used there alone.

    A kernel is known by identity: the very array that was passed in, read where it was passed in and not inside another
    transformation (a scan, a vmap of the network's own), where one call may stand for many.
    """
    found, read = [], set()

    def note(kernel, _window, _inputs, outputs):
        if isinstance(kernel, jax.core.Tracer) and kernel._trace is outputs._trace:
            read.add(id(kernel))
        return outputs

    def trace(params):
        logits = _apply(note, logits_fn, {**variables, "params": params}, image)
        found.extend(id(leaf) in read for leaf in jax.tree.leaves(params))
        return logits

    jaxpr = jax.make_jaxpr(trace)(variables["params"]).jaxpr
    uses = collections.Counter(id(var) for equation in jaxpr.eqns for var in equation.invars)
    return [kernel and uses[id(var)] == 1 for kernel, var in zip(found, jaxpr.invars, strict=True)]


class Window(NamedTuple):
    """How a layer's windows lie on its input; an entry for every axis but the channels."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int  # of channels


def _dense_window(layer, shape) -> Window | None:
    """Windows of one position; None where the layer has a product of its own."""
    ones = (1,) * (len(shape) - 1)
    plain = layer.dot_general is None and layer.dot_general_cls is None
    return Window(ones, ones, ones, ((0, 0),) * len(ones), 1) if plain else None


def _conv_window(layer, shape) -> Window | None:
    """None where the layer is no plain convolution: a mask, a dilated input, padding with pixels, its own operation."""
    rank = np.size(layer.kernel_size)
    each = lambda value: (value or 1,) * rank if np.ndim(value) == 0 else tuple(value)
    size, stride, dilation = each(layer.kernel_size), each(layer.strides), each(layer.kernel_dilation)
    padding = nn.linear.canonicalize_padding(layer.padding, rank)
    operation = layer.conv_general_dilated in (None, lax.conv_general_dilated, convolve)
    plain = operation and layer.conv_general_dilated_cls is None and layer.mask is None
    if not plain or set(each(layer.input_dilation)) != {1} or padding in ("CIRCULAR", "REFLECT", "CAUSAL"):
        return None
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(size, dilation)]
        padding = lax.padtype_to_pads(shape[-1 - rank : -1], extent, stride, padding)
    batch = len(shape) - 1 - rank
    ones = (1,) * batch
    pads = ((0, 0),) * batch + tuple(map(tuple, padding))
    return Window(ones + size, ones + stride, ones + dilation, pads, layer.feature_group_count)


_WINDOWS = {nn.Dense: _dense_window, nn.Conv: _conv_window}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(window, outputs, inputs, square):
    """`outputs`; on the way back the squared norm of the kernel's gradient is the gradient of `square`."""
    return outputs


def _tap_backward(window, inputs, grad):
    return grad, None, _square_norm(window, inputs, grad)


_tap.defvjp(lambda window, outputs, inputs, square: (outputs, inputs), _tap_backward)


def _square_norm(window, x, grad):
    """||X^T D||^2 of one example, a scalar: all axes of x (..., C) and grad (..., D) but the last are positions."""
    n_in, n_out = math.prod(x.shape[:-1]), math.prod(grad.shape[:-1])
    product = n_out * math.prod(window.size) * x.shape[-1] * grad.shape[-1] // window.groups
    gram = n_in**2 * x.shape[-1] + n_out**2 * grad.shape[-1]
    if gram < product:
        return _by_gram_matrices(window, x, grad)
    batched = functools.partial(_by_product, window)
    one_by_one = custom_batching.sequential_vmap(batched)  # the windows of one example fit a CPU's cache
    return lax.platform_dependent(x, grad, cpu=one_by_one, default=batched)


def _slices(window, offset, n_out):
    """Where the elements number `offset` of all windows lie on the padded input; n_out: windows along each axis."""
    starts = [i * dilation for i, dilation in zip(offset, window.dilation)]
    return tuple(slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(starts, n_out, window.stride))


def _by_product(window, x, grad):
    n_out = grad.shape[:-1]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(*pad, 0) for pad in (*window.padding, (0, 0))])
    elements = [x[_slices(window, offset, n_out)] for offset in np.ndindex(window.size)]
    windows = jnp.stack(elements, axis=-2).reshape(math.prod(n_out), len(elements), window.groups, -1)
    grad = grad.reshape(math.prod(n_out), window.groups, -1)
    return jnp.sum(jnp.square(jnp.einsum("tkgc,tgd->gkcd", windows, grad)))


def _by_gram_matrices(window, x, grad):
    n_out, groups = grad.shape[:-1], window.groups
    pixels = _gram(x, groups).reshape(groups, *x.shape[:-1], *x.shape[:-1])
    pads = [(*pad, 0) for pad in ((0, 0), *window.padding, *window.padding)]
    pixels = lax.pad(pixels, jnp.zeros((), x.dtype), pads)
    padded = pixels.shape[1 : x.ndim]
    n_padded = math.prod(padded)
    gram = _sum_of_shifts(window, padded, pixels.reshape(groups, n_padded, n_padded))
    beyond = (0, n_padded - gram.shape[-1])  # no window begins there
    gram = jnp.pad(gram, ((0, 0), beyond, beyond)).reshape(groups, *padded, *padded)
    first = _slices(window, (0,) * len(n_out), n_out)
    return jnp.sum(gram[:, *first, *first].reshape(groups, math.prod(n_out), -1) * _gram(grad, groups))


def _gram(x, groups):
    """Products of all pairs of positions within each group of channels, (groups, N, N)."""
    x = x.reshape(-1, groups, x.shape[-1] // groups)
    return jnp.einsum("pgc,qgc->gpq", x, x)


def _sum_of_shifts(window, padded, gram):
    """sum over a window's offsets o of gram[p + o, q + o], for positions p, q counted through the padded input."""
    for axis, (size, dilation) in enumerate(zip(window.size, window.dilation)):
        step = dilation * math.prod(padded[axis + 1 :])
        n = gram.shape[-1] - (size - 1) * step
        gram = sum(gram[:, i : i + n, i : i + n] for i in range(0, size * step, step))
    return gram
