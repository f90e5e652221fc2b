"""Where a sample's latents lie: grids of halving side, the causal context of each position, the way up to full size.

All of it integers, the same for the float model (codec.py) and for what is coded (integer.py). A sample's L latents are
one flat axis, finest grid first, each row by row. Letters: L latents, C context, S side of the image, s of a grid.
"""

import functools

import numpy as np

WINDOW = 4  # a context lies at most this many rows above and columns beside its position: half of 9 x 9
UP_BITS = 19  # of the fraction of an upsampling weight, which is exact with these: factors of at most 32, cubed


def sides(side: int) -> tuple[int, ...]:
    """Sides of the grids: down to 1 below 64 pixels, six grids from there on (1,365 latents at 32, 21,840 at 128)."""
    n_grids = 6 if side >= 64 else side.bit_length()
    return tuple(side >> level for level in range(n_grids))


def n_latents(side: int) -> int:
    return sum(s * s for s in sides(side))


def starts(side: int) -> tuple[int, ...]:
    """Where on the flat axis each grid begins."""
    return tuple(np.cumsum([0] + [s * s for s in sides(side)])[:-1].tolist())


def offsets(context: int) -> list[tuple[int, int]]:
    """(rows, columns) to the nearest positions that come before one: those above, and those to its left."""
    before = [(y, x) for y in range(-WINDOW, 1) for x in range(-WINDOW, WINDOW + 1) if (y, x) < (0, 0)]
    return sorted(before, key=lambda at: (at[0] ** 2 + at[1] ** 2, at))[:context]


@functools.lru_cache(maxsize=8)
def contexts(side: int, context: int) -> np.ndarray:
    """(L, C) int: the flat places of a position's context; L, where a zero belongs, outside the position's grid."""
    return _neighbours(side, offsets(context))


@functools.lru_cache(maxsize=8)
def readers(side: int, context: int) -> np.ndarray:
    """(L, C) int, the inverse of `contexts`: in whose context, as its c-th, a position is; L for nobody's."""
    return _neighbours(side, [(-y, -x) for y, x in offsets(context)])


def _neighbours(side, moves):
    outside, found = n_latents(side), []
    for s, start in zip(sides(side), starts(side), strict=True):
        y, x = np.divmod(np.arange(s * s), s)
        moved = [(y + dy, x + dx) for dy, dx in moves]
        inside = [(0 <= v) & (v < s) & (0 <= u) & (u < s) for v, u in moved]
        places = [np.where(ok, start + v * s + u, outside) for ok, (v, u) in zip(inside, moved, strict=True)]
        found.append(np.stack(places, axis=1))
    return np.concatenate(found)


@functools.lru_cache(maxsize=32)
def upsampling(side: int, s: int) -> np.ndarray:
    """(S, s) int64: the weights of cubic interpolation (Keys, a = -1/2; edges repeated) from s pixels to S, times
    2 ** UP_BITS and exactly so. Applied to rows and to columns."""
    factor = side // s
    d = 2 * factor  # positions are multiples of 1 / d
    i, t = np.divmod(2 * np.arange(side) + 1 - factor, d)
    weights = [-(t**3) + 2 * t**2 * d - t * d**2, 3 * t**3 - 5 * t**2 * d + 2 * d**3]
    weights += [-3 * t**3 + 4 * t**2 * d + t * d**2, t**3 - t**2 * d]
    matrix = np.zeros((side, s), np.int64)
    for shift, weight in zip((-1, 0, 1, 2), weights, strict=True):
        np.add.at(matrix, (np.arange(side), np.clip(i + shift, 0, s - 1)), weight)
    return matrix * 2**UP_BITS // (2 * d**3)
