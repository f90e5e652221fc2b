"""Contact sheets of distilled images and heat-maps of Shapley values, as Pillow images with a transparent background,
so that they sit on a light and on a dark page. Letters: N examples, H W image, G grid side."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from infoutil_jax.errors import DataError, NumericError

MAX_PER_CLASS = 10
MAX_CLASSES = 100  # a sheet of all of ImageNet would weigh 100 MB and be too tall for a browser to draw
SHEET_WIDTH = 960  # pixels; classes of few images share a line up to this width
NAME_WIDTH = 180  # pixels; longer class names end in an ellipsis
GAP = 4  # pixels between neighbours
FONT_SIZE = 14
TEXT = (118, 118, 118, 255)  # readable on white and on near-black
RED, WHITE, BLUE = (214, 35, 45), (255, 255, 255), (30, 95, 215)
OUTLINE, OUTLINE_EDGE = (255, 214, 10), (20, 20, 20)
OPACITY = 0.9  # of the strongest colour; the picture stays visible under it


def contact_sheet(images_u8, labels, class_names, *, tile=64, columns=None):
    """Every class's images in a strip behind the class's name, in the order given.

    Args:
      images_u8: (N, H, W, 3) uint8.
      labels: (N,) integers, indices into class_names.
      tile: longest side of a drawn image in pixels. Smaller images grow by a whole factor, pixels unmixed.
      columns: images shown per class, by default up to MAX_PER_CLASS; `+40` notes how many more there are.

    Returns:
      RGBA image; a class per line, or several when they fit into SHEET_WIDTH; at most MAX_CLASSES classes.

    Raises:
      DataError: wrong shape or dtype, no images, or a label without a name.
    """
    _check_sheet(images_u8, labels, class_names)
    labels, most = np.asarray(labels), columns or MAX_PER_CLASS
    classes = np.unique(labels)
    names = [_shorten(class_names[c]) for c in classes[:MAX_CLASSES]]
    groups = [images_u8[labels == c] for c in classes[:MAX_CLASSES]]
    tiles = [[_fit(image_u8, tile) for image_u8 in group[:most]] for group in groups]
    notes = [f"+{len(group) - most}" if len(group) > most else "" for group in groups]
    sheet = _share_lines(_strips(names, tiles, notes))
    if len(classes) <= MAX_CLASSES:
        return sheet
    note = f"+{len(classes) - MAX_CLASSES} classes"
    return _column([sheet, _text(note, _text_width(note) + GAP, 2 * FONT_SIZE)])


def heatmap(image_u8, phi_GG, box=None, *, size=160):
    """Shapley values over a grey copy of the image: red raises the class's score, blue lowers it, grey does nothing.

    Args:
      image_u8: (H, W, 3) uint8.
      phi_GG: (G, G) finite values, one per cell of the grid; colours are scaled by max |phi_GG|, alike on both sides.
      box: y, x, h, w in pixels of image_u8, drawn as an outline.
      size: longest side of the result in pixels.

    Raises:
      DataError: wrong shape or dtype. NumericError: a value is not finite.
    """
    _check_images("heatmap: image_u8", image_u8, "(H, W, 3)")
    phi_GG = np.asarray(phi_GG, np.float64)
    if phi_GG.ndim != 2 or not phi_GG.size:
        raise DataError(f"heatmap: phi_GG must be (G, G), got {phi_GG.shape}; pass the values of one example")
    if not np.isfinite(phi_GG).all():
        bad = f"{np.sum(~np.isfinite(phi_GG))} of {phi_GG.size} values of phi_GG"
        raise NumericError(f"heatmap: {bad} are not finite; check the attribute stage")
    grey = _fit(image_u8, size).convert("L").convert("RGB")
    picture = Image.fromarray(_blend(np.asarray(grey), phi_GG))
    if box is not None:
        _outline(picture, np.asarray(box) * (picture.height / image_u8.shape[0]))
    return picture


def heatmap_strip(images_u8, phis_NGG, boxes, *, size=160, columns=3):
    """Each example's image and heat-map side by side, `columns` examples per line.

    Args:
      images_u8: (N, H, W, 3) uint8.
      phis_NGG: (N, G, G) finite values.
      boxes: N times y, x, h, w in pixels, or None where there is no box.
      size: longest side of a drawn image in pixels.

    Raises:
      DataError: wrong shape or dtype, or lengths that differ. NumericError: a value is not finite.
    """
    _check_images("heatmap_strip: images_u8", images_u8, "(N, H, W, 3)")
    if not len(images_u8) == len(phis_NGG) == len(boxes):
        lengths = f"{len(images_u8)} images, {len(phis_NGG)} maps and {len(boxes)} boxes"
        raise DataError(f"heatmap_strip: got {lengths}; pass one of each per example")
    pairs = [
        _row([_fit(image_u8, size), heatmap(image_u8, phi_GG, box, size=size)])
        for image_u8, phi_GG, box in zip(images_u8, phis_NGG, boxes)
    ]
    return _grid(pairs, columns, across=6 * GAP, down=3 * GAP)


def visible(text):
    """The text with control, direction and undecodable characters written as escapes, so that none can act."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _fit(image_u8, size):
    """Grows by a whole factor with unmixed pixels, or shrinks with averaging, to a longest side of at most size."""
    height, width = image_u8.shape[:2]
    factor = size // max(height, width)
    picture = Image.fromarray(np.ascontiguousarray(image_u8))
    if factor:
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    scale = size / max(height, width)
    smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(smaller, Image.Resampling.LANCZOS)


def _strips(names, tiles, notes):
    """A picture per class: name, tiles, note; tiles begin at the same place in all of them."""
    height = tiles[0][0].height
    name_width, note_width = (max(map(_text_width, texts)) + GAP for texts in (names, notes))
    heads = [_text(name, name_width, height, right=True) for name in names]
    tails = [[_text(note, note_width, height)] if note else [] for note in notes]
    return [_row([head, *pictures, *tail]) for head, pictures, tail in zip(heads, tiles, tails)]


def _share_lines(strips):
    """As many strips to a line as SHEET_WIDTH holds, spread evenly over the lines."""
    gap = 6 * GAP
    most = max(1, (SHEET_WIDTH + gap) // (max(strip.width for strip in strips) + gap))
    n_lines = math.ceil(len(strips) / most)
    return _grid(strips, math.ceil(len(strips) / n_lines), across=gap, down=GAP)


def _row(pictures):
    lefts = np.cumsum([0] + [picture.width + GAP for picture in pictures])
    return _paste(pictures, [(int(left), 0) for left in lefts[:-1]])


def _column(pictures):
    tops = np.cumsum([0] + [picture.height + GAP for picture in pictures])
    return _paste(pictures, [(0, int(top)) for top in tops[:-1]])


def _grid(pictures, columns, *, across, down):
    """In reading order, every cell as large as the largest picture; `across` and `down` are the gaps."""
    width = max(picture.width for picture in pictures) + across
    height = max(picture.height for picture in pictures) + down
    return _paste(pictures, [(i % columns * width, i // columns * height) for i in range(len(pictures))])


def _paste(pictures, corners):
    """On transparent ground just large enough; corners are left, top."""
    width = max(left + picture.width for picture, (left, _) in zip(pictures, corners))
    height = max(top + picture.height for picture, (_, top) in zip(pictures, corners))
    sheet = Image.new("RGBA", (width, height))
    for picture, corner in zip(pictures, corners):
        sheet.paste(picture, corner)
    return sheet


def _font():
    return ImageFont.load_default(size=FONT_SIZE)


def _text_width(text):
    return math.ceil(_font().getlength(text))


def _text(text, width, height, *, right=False):
    """The text on transparent ground, at mid-height, at the left or right end."""
    picture = Image.new("RGBA", (width, height))
    x, anchor = (width - GAP, "rm") if right else (GAP, "lm")
    ImageDraw.Draw(picture).text((x, height / 2), text, fill=TEXT, font=_font(), anchor=anchor)
    return picture


def _shorten(name):
    name = visible(name)
    if _text_width(name) <= NAME_WIDTH:
        return name
    length = next(n for n in range(len(name), -1, -1) if _text_width(name[:n] + "...") <= NAME_WIDTH)
    return name[:length] + "..."


def _blend(grey, phi_GG):
    """Colour by sign, opacity by strength. grey: (h, w, 3) uint8."""
    height, width = grey.shape[:2]
    rows, columns = np.arange(height) * phi_GG.shape[0] // height, np.arange(width) * phi_GG.shape[1] // width
    scaled = phi_GG / (np.abs(phi_GG).max() or 1.0)
    value = scaled[rows][:, columns, None]
    strength = np.abs(value)
    colour = WHITE + strength * (np.where(value > 0, RED, BLUE) - WHITE)
    weight = OPACITY * strength
    return np.round((1 - weight) * grey + weight * colour).astype(np.uint8)


def _outline(picture, box):
    """A bright line between two dark ones: it shows on any ground. box: y, x, h, w in pixels of the picture."""
    y, x, height, width = box
    left, top, right, bottom = (round(float(side)) for side in (x, y, x + width, y + height))
    draw = ImageDraw.Draw(picture)
    for inset, colour, line in ((0, OUTLINE_EDGE, 4), (1, OUTLINE, 2)):
        if min(right - left, bottom - top) > 2 * inset:
            corners = (left + inset, top + inset, right - inset - 1, bottom - inset - 1)
            draw.rectangle(corners, outline=colour, width=line)


def _check_images(name, images_u8, shape):
    """Raises DataError unless images_u8 is a non-empty uint8 array with as many axes as `shape` writes."""
    dtype, found = getattr(images_u8, "dtype", type(images_u8).__name__), np.shape(images_u8)
    if dtype != np.uint8 or len(found) != shape.count(",") + 1 or found[-1] != 3 or 0 in found:
        raise DataError(f"{name} must be {shape} uint8 and not empty, got {found} {dtype}; scale to 0..255 and convert")


def _check_sheet(images_u8, labels, class_names):
    _check_images("contact_sheet: images_u8", images_u8, "(N, H, W, 3)")
    if len(labels) != len(images_u8):
        raise DataError(f"contact_sheet: {len(labels)} labels for {len(images_u8)} images; pass one label per image")
    if min(labels) < 0 or max(labels) >= len(class_names):
        raise DataError(
            f"contact_sheet: labels run from {min(labels)} to {max(labels)}, but there are {len(class_names)} "
            "class names; pass a name for every label"
        )
