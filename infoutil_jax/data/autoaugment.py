"""AutoAugment and RandAugment of one image, float32 (H, W, 3) in [0, 1], as torchvision applies them to bytes.

Operations are of three kinds: warps, blends with another image, tables of levels. Under `vmap`, where the images of a
batch take different operations, each image pays for one of each kind instead of fifteen branches: about 5 ms for 50
images of 32 px and two operations on two cores, of which AutoContrast and Equalize take a third.

Pixels are whole levels 0..255 in float32. Results are those of real arithmetic on all devices: where a true value is
a whole level, or a sample falls between two pixels, torchvision's rounding errors decide and it may take the other.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip
SIGNED = np.array([0 < i < 10 for i in range(len(OPERATIONS))])  # those whose magnitude is negated half the time
BINS = {"autoaugment": 10, "randaugment": 31}  # levels of magnitude
TIE = 1e-4  # settles what is within rounding errors of a whole number, in levels and in pixels

# Two operations, each with its probability and level of magnitude (0 = it has none): Cubuk et al. 2018, appendix.
POLICIES = {
    "cifar10": (
        (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
        (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
        (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
        (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
    ),
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
        (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
        (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    ),
}


def magnitudes(bins: int, height: int, width: int) -> np.ndarray:
    """Magnitude of each operation at each of `bins` levels, float32 (operations, bins).

    Shears: tangent; translations: pixels; rotation: degrees; blends: added to a factor of 1; Posterize: bits kept;
    Solarize: least level to invert. Rows of operations without magnitude are 0.
    """
    at = np.arange(bins) / (bins - 1)
    blend = 0.9 * at
    rows = dict(ShearX=0.3 * at, ShearY=0.3 * at, TranslateX=150 / 331 * width * at, Rotate=30 * at)
    rows |= dict(TranslateY=150 / 331 * height * at, Brightness=blend, Color=blend, Contrast=blend, Sharpness=blend)
    rows |= dict(Posterize=8 - np.round(4 * at), Solarize=255 * (1 - at))
    return np.stack([rows.get(name, np.zeros(bins)) for name in OPERATIONS]).astype(np.float32)


def _is(operation, name: str):
    return operation == OPERATIONS.index(name)


def _warp(pixels, operation, magnitude):
    """Nearest pixels under the geometric operation, black outside; shears keep the first row or column in place."""
    height, width = pixels.shape[:2]
    amount = lambda name: jnp.where(_is(operation, name), magnitude, 0.0)
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    x = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    dy, dx, angle = y - height / 2, x - width / 2, jnp.deg2rad(amount("Rotate"))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    from_x = cos * dx - sin * dy + width / 2 + amount("ShearX") * y - jnp.trunc(amount("TranslateX"))
    from_y = sin * dx + cos * dy + height / 2 + amount("ShearY") * x - jnp.trunc(amount("TranslateY"))
    row, column = (jnp.floor(v + TIE).astype(jnp.int32) for v in (from_y, from_x))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    sampled = pixels[jnp.clip(row, min=0, max=height - 1), jnp.clip(column, min=0, max=width - 1)]
    return jnp.where(inside[:, :, None], sampled, 0.0)


def _smooth(pixels):
    """Means over 3 x 3 pixels, the middle one counted five times; the image's border stays as it is."""
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    centre = pixels[1:-1, 1:-1]
    mean = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * centre) / 13
    return pixels + jnp.pad(jnp.round(mean) - centre, ((1, 1), (1, 1), (0, 0)))


def _blend(pixels, operation, magnitude):
    """1 + magnitude parts of the image and -magnitude parts of black, its mean grey, its greys, or itself smoothed."""
    red, green, blue = (pixels[:, :, c : c + 1] for c in range(3))
    grey = jnp.floor((2989 * red + 5870 * green + 1140 * blue + 0.5) / 10000)
    others = dict(Contrast=jnp.mean(grey), Color=grey, Sharpness=_smooth(pixels), Brightness=jnp.zeros_like(pixels))
    chosen = [_is(operation, name) for name in others]
    other = jnp.select(chosen, [jnp.broadcast_to(value, pixels.shape) for value in others.values()], pixels)
    return jnp.clip(jnp.floor(pixels + magnitude * (pixels - other) + TIE), min=0, max=255)


def _spread(level, operation, pixels_NC):
    """Tables (256, 3) of AutoContrast (each channel's range to 0..255) and Equalize (its ranks to 0..255): a ratio of
    whole numbers, rounded down. A channel without one, as of a flat image, stays as it is.
    """
    darkest, brightest = pixels_NC.min(0, keepdims=True), pixels_NC.max(0, keepdims=True)
    count = jnp.zeros_like(level).at[pixels_NC, jnp.arange(3)[None, :]].add(1)
    step = (pixels_NC < brightest).sum(0, keepdims=True) // 255
    stretches = _is(operation, "AutoContrast")
    numerator = jnp.where(stretches, 255 * (level - darkest), jnp.cumsum(count, axis=0) - count + step // 2)
    denominator = jnp.where(stretches, brightest - darkest, step)
    ratio = jnp.clip(numerator // jnp.maximum(denominator, 1), min=0, max=255)
    return jnp.where(denominator > 0, ratio, level)


def _look_up(pixels, operation, magnitude):
    """Each level of each channel through the pointwise operation's table."""
    pixels_NC = pixels.reshape(-1, 3).astype(jnp.int32)
    level = jnp.broadcast_to(jnp.arange(256)[:, None], (256, 3))
    spread = _spread(level, operation, pixels_NC)
    tables = {
        "Posterize": level & -jnp.left_shift(1, 8 - magnitude.astype(jnp.int32)),
        "Solarize": jnp.where(level.astype(jnp.float32) + TIE >= magnitude, 255 - level, level),
        "AutoContrast": spread,
        "Equalize": spread,
        "Invert": 255 - level,
    }
    table = jnp.select([_is(operation, name) for name in tables], list(tables.values()), level)
    return jnp.take_along_axis(table, pixels_NC, axis=0).reshape(pixels.shape).astype(jnp.float32)


def apply(operation, magnitude, pixels):
    """One operation, an index into OPERATIONS, at a signed `magnitude` (scalars, may be traced) on whole levels."""
    last_warp, last_blend = OPERATIONS.index("Rotate"), OPERATIONS.index("Sharpness")
    kinds = [operation <= last_warp, operation <= last_blend, operation > last_blend]
    return jnp.select(kinds, [part(pixels, operation, magnitude) for part in (_warp, _blend, _look_up)])


def _in_turn(image, operations, magnitude, negate):
    """The image after operations (n,), each at its magnitude, negated where `negate` says and the operation has signs.

    A scan, because the compiler would fuse one operation into the next and compute it again for each pixel's reader.
    """
    magnitude = jnp.where(negate & jnp.asarray(SIGNED)[operations], -magnitude, magnitude)
    step = lambda pixels, drawn: (apply(*drawn, pixels), None)
    pixels, _ = jax.lax.scan(step, jnp.round(image * 255), (operations, magnitude))
    return pixels / 255


def autoaugment(key, image, policy: str):
    """AutoAugment (Cubuk et al. 2018): one of the 25 sub-policies of "cifar10" or "imagenet" on an image (H, W, 3) in
    [0, 1], rounded to 256 levels. Raises KeyError for another policy.
    """
    rows = POLICIES[policy]
    operation = np.array([[OPERATIONS.index(name) for name, _, _ in row] for row in rows])
    probability = np.array([[p for _, p, _ in row] for row in rows], np.float32)
    magnitude = magnitudes(BINS["autoaugment"], *image.shape[:2])[operation, [[b for *_, b in row] for row in rows]]
    u = jax.random.uniform(key, (5,))  # the sub-policy, the two applications, the two signs
    chosen = jnp.floor(u[0] * len(rows)).astype(jnp.int32)
    operation, probability, magnitude = (jnp.asarray(a)[chosen] for a in (operation, probability, magnitude))
    return _in_turn(image, jnp.where(u[1:3] < probability, operation, 0), magnitude, u[3:] < 0.5)


def randaugment(key, image, n_ops: int = 2, magnitude: int = 9):
    """RandAugment (Cubuk et al. 2019): `n_ops` draws from the operations other than Invert, all at level `magnitude`
    of 0..30, on an image (H, W, 3) in [0, 1], rounded to 256 levels.
    """
    table = jnp.asarray(magnitudes(BINS["randaugment"], *image.shape[:2])[:, magnitude])
    u, negate = jax.random.uniform(key, (2, n_ops))
    operations = jnp.floor(u * OPERATIONS.index("Invert")).astype(jnp.int32)
    return _in_turn(image, operations, table[operations], negate < 0.5)


AUGMENTATIONS = {  # name -> f(key, image)
    "none": lambda key, image: image,
    "autoaugment_cifar10": functools.partial(autoaugment, policy="cifar10"),
    "autoaugment_imagenet": functools.partial(autoaugment, policy="imagenet"),
    "randaugment": randaugment,
}
