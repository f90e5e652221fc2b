"""The points of the curves: how a set's images are coded, and how its labels."""

import dataclasses
from dataclasses import dataclass

from infoutil_jax.rate import image_codecs, labels

# Of either kind of sheet. From WebP's 0 to its 20 the bits grow 2.7 times: 5 lies at the codec's middle rate.
QUALITIES = {"jpeg": (5, 20, 50, 90), "webp": (0, 5, 20, 60, 90), "avif": (5, 20, 45, 75)}
OF_FILES = {"jpeg": (20, 50), "webp": (20, 60), "avif": (20, 45)}  # headers rule here, and pixels hardly differ
FILES = {"image": "files", "class": "sheets", "set": "one sheet"}  # the last pays its headers once, as the codec does
LABELS = {
    "float16": "float16", "step 0.35": labels.Settings(0.35), "step 1": labels.Settings(1.0),
    "step 1, top 3": labels.Settings(1.0, top=3), "step 1, top 1": labels.Settings(1.0, top=1), "online": "online",
}  # fmt: skip
COMMON_LABELS = "step 1"  # of all points whose images differ
UTILITIES = ("mse", "teacher_kl", "teacher_features", "distribution_matching", "gradient_matching")
UTILITIES += ("gradient_matching + mse",)  # alone it is blind to brightness and contrast, under instance norm
RATES = (280, 700, 2050)  # bits an image, the last is DD-RUO's smallest CIFAR-10 point at IPC 50
PIXELS = 32**2  # of an image at these rates; larger ones get as many bits a pixel
# Of random ConvNets; 128 wants a GPU.
WIDTHS = {"distribution_matching": (32, 128), "gradient_matching": (32,), "gradient_matching + mse": (32,)}
SMALL = 10  # below this IPC images get four times the bits: networks weigh as much as at any other
SCOPE = "dataset"  # who shares networks: those of a class weigh more than its latents up to IPC 10


@dataclass(frozen=True)
class Latents:
    """The codec of rate/, steered to a rate."""

    utility: str  # one of UTILITIES
    bits: int  # of images and networks together, per image
    width: int = 0  # of the random ConvNets of distribution and gradient matching
    scope: str = SCOPE


@dataclass(frozen=True)
class Point:
    method: str
    ipc: int
    images: image_codecs.Settings | Latents
    labels: str  # one of LABELS

    @property
    def coder(self) -> str:
        """What the curve that this point is on is called."""
        if isinstance(self.images, Latents):
            return f"codec, {self.images.utility}" + f" {self.images.width}" * bool(self.images.width)
        return f"{self.images.format} {FILES[self.images.per]}"

    @property
    def name(self) -> str:
        images = self.images
        how = f"{images.bits} bits an image" if isinstance(images, Latents) else _quality(images)
        return f"{self.method} ipc {self.ipc}: {self.coder}, {how}; labels {self.labels}"

    @property
    def plain(self) -> dict:
        """As JSON keeps it."""
        return dataclasses.asdict(self) | {"coder": self.coder}


def _quality(images) -> str:
    return "lossless" if images.quality is None else f"quality {images.quality}"


def all_points(methods, ipcs, n_classes: int, side: int = 32) -> list[Point]:
    """Labels first, as the images' points depend on what they show; then standard formats; then the codec. Images have
    side x side pixels."""
    found = []
    for ipc in ipcs:
        for method in methods:
            exact = image_codecs.Settings("png", per="class")
            found += [Point(method, ipc, exact, name) for name in LABELS if _possible(name, n_classes)]
            found += [Point(method, ipc, images, COMMON_LABELS) for images in _standard() if images != exact]
            found += [Point(method, ipc, latents, COMMON_LABELS) for latents in _latents(ipc, side)]
    return found


def _possible(name: str, n_classes: int) -> bool:
    """A stream of the largest logits needs a rest to leave out."""
    return getattr(LABELS[name], "top", 0) <= n_classes - 2


def _standard():
    for per in FILES:
        yield from (image_codecs.Settings(format_, per=per) for format_ in image_codecs.LOSSLESS)
        for format_, qualities in (OF_FILES if per == "image" else QUALITIES).items():
            yield from (image_codecs.Settings(format_, quality, per) for quality in qualities)


def _latents(ipc: int, side: int):
    times = 4 if ipc < SMALL else 1
    for utility in UTILITIES:
        for width in WIDTHS.get(utility, (0,)):
            yield from (Latents(utility, times * rate * side**2 // PIXELS, width) for rate in RATES)


def at_toy_size(points: list[Point]) -> list[Point]:
    """Of every curve the first point, at the least width, for --smoke."""
    without_width = lambda p: (p.method, p.ipc, p.coder.rstrip(" 0123456789"), p.labels)
    return list({without_width(p): p for p in reversed(points)}.values())[::-1]
