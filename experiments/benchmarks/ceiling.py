"""What the machine can do: the best measured rate of a matrix product and of a 3x3 convolution, in both libraries."""

import jax
import networks
import numpy as np
import sizes
import timing
import torch


def run(all_sizes: sizes.Sizes, _) -> dict:
    """{precision: {library: {kind: {GFLOP/s, shape}}}}, the fastest shape of each kind."""
    case, repeats = all_sizes.ceiling, all_sizes.repeats
    return {
        precision: {name: best_shapes(make(case, precision), case, repeats) for name, make in LIBRARIES.items()}
        for precision in case.precisions
    }


def best_shapes(operations: dict, case: sizes.Ceiling, repeats: int) -> dict:
    variants = {key: repeated(*operation, case.seconds) for key, operation in operations.items()}
    best = {}
    for (kind, shape), (_, seconds) in timing.interleave(variants, repeats).items():
        rate = {"gflop_per_second": float(1 / np.median(seconds)), "shape": shape}
        best[kind] = max(best.get(kind, rate), rate, key=lambda r: r["gflop_per_second"])
    return best


def fastest(figures: dict, precision: str) -> tuple:
    """(GFLOP/s, library, kind, shape) of the fastest operation that `run` found."""
    return max(
        (rate["gflop_per_second"], library, kind, rate["shape"])
        for library, kinds in figures[precision].items()
        for kind, rate in kinds.items()
    )


def variant(figures: dict, precision: str, case: sizes.Ceiling, gflop_per_unit: float):
    """The fastest operation as a variant of `timing`, in units that take so much arithmetic."""
    _, library, kind, shape = fastest(figures, precision)
    only = case._replace(matmul_sides=(shape,), convolutions=()) if kind == "matmul" else None
    only = only or case._replace(matmul_sides=(), convolutions=(shape,))
    work = repeated(*LIBRARIES[library](only, precision)[kind, shape], case.seconds)
    return lambda: work() / gflop_per_unit


def repeated(operation, gflop: float, seconds: float):
    """A variant for `timing` whose unit is a GFLOP: the operation as often as fits into `seconds`."""

    def work(times):
        for _ in range(times):
            operation()
        return times * gflop

    seconds_per_gflop = np.median(timing.interleave({"once": lambda: work(1)}, 3)["once"].seconds)
    return lambda: work(max(1, round(seconds / (seconds_per_gflop * gflop))))


def jax_operations(case: sizes.Ceiling, precision: str) -> dict:
    """{(kind, shape): (function that works to the end, GFLOP of one call)}."""
    normal = lambda *shape: jax.random.normal(jax.random.key(0), shape, precision)
    layout = ("NHWC", "HWIO", "NHWC")
    product = jax.jit(lambda a, b: a @ b)
    convolve = jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout))
    operations = {}
    for n in case.matmul_sides:
        operations["matmul", n] = (product, normal(n, n), normal(n, n))
    for b, s, c in case.convolutions:
        operations["convolution", (b, s, c)] = (convolve, normal(b, s, s, c), normal(3, 3, c, c))
    return finished(operations, jax.block_until_ready)


def torch_operations(case: sizes.Ceiling, precision: str) -> dict:
    """The same in PyTorch; convolutions in the layout that suits CPUs and tensor cores."""
    options = dict(device=networks.DEVICE, dtype=getattr(torch, precision))
    last = dict(memory_format=torch.channels_last)
    convolve = lambda x, k: torch.nn.functional.conv2d(x, k, padding=1)
    operations = {}
    for n in case.matmul_sides:
        operations["matmul", n] = (torch.matmul, torch.randn(n, n, **options), torch.randn(n, n, **options))
    for b, s, c in case.convolutions:
        x, k = torch.randn(b, c, s, s, **options).to(**last), torch.randn(c, c, 3, 3, **options).to(**last)
        operations["convolution", (b, s, c)] = (convolve, x, k)
    return finished(operations, lambda _: networks.wait())


def finished(operations: dict, wait) -> dict:
    return {key: (lambda f=f, x=x, y=y: wait(f(x, y)), gflop(*key)) for key, (f, x, y) in operations.items()}


def gflop(kind: str, shape) -> float:
    if kind == "matmul":
        return 2 * shape**3 / 1e9
    batch, side, channels = shape
    return 2 * batch * side**2 * 9 * channels**2 / 1e9


LIBRARIES = {"JAX": jax_operations, "PyTorch": torch_operations}
