"""The page that a run leaves behind: one HTML file with tables, pictures and curves, no network and no scripts.
`report.html.j2` holds the design; this file prepares what it shows."""

import base64
import importlib.resources
import io
import json
import math
import unicodedata
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from infoutil_jax import pictures
from infoutil_jax.errors import DataError

Cells = list[str]
Points = list[tuple[float, float]]

PLOT = {"left": 48, "right": 624, "top": 40, "bottom": 292, "width": 640, "height": 344}  # SVG units
N_COLOURS = 6  # line colours and dashes that the template knows besides the method's own


class Report(NamedTuple):
    """Everything the page shows. Strings are shown as they are: markup in them is text."""

    title: str
    summary: list[tuple[str, str]]  # (label, value), the few facts to see first
    columns: Cells
    rows: list[Cells]  # formatted numbers; the first cell names the row
    table_note: str
    contact_sheet: Image.Image
    heatmaps: Image.Image | None
    curves: dict[str, Points]  # name -> (epoch, accuracy in [0, 1])
    config: dict
    environment: dict
    files: list[tuple[str, str]]  # (path, sha256)
    method: str = "InfoUtil"  # the row and the curve of this name, case aside, stand out
    class_names: tuple[str, ...] = ()  # read out to those who do not see the contact sheet
    timing: tuple[Cells, list[Cells]] | None = None  # columns and rows of where the time went
    rate: tuple[Cells, list[Cells]] | None = None  # of what the sets cost to store


class Line(NamedTuple):
    """One curve in SVG units."""

    name: str
    style: str  # CSS class
    points: str  # x,y x,y ...
    end: tuple[float, float]
    last: str  # last accuracy in percent


class Plot(NamedTuple):
    """Axes and curves in SVG units; ticks are (position, text)."""

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]


def to_html(report):
    """The report as one self-contained HTML page.

    Raises:
      DataError: a row's length differs from the columns', or a curve has no points or an accuracy outside [0, 1].
    """
    for columns, rows in filter(None, [(report.columns, report.rows), report.timing, report.rate]):
        _check_table(columns, rows)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"png": _png, "pretty": _pretty}
    source = importlib.resources.files("infoutil_jax").joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        report=report,
        plot=plot(report.curves, report.method) if report.curves else None,
        frame=PLOT,
        heat={"negative": pictures.BLUE, "positive": pictures.RED, "box": pictures.OUTLINE},
    )
    return html.encode("utf-8", "backslashreplace").decode("utf-8")  # file names may hold undecodable bytes


def to_text(columns, rows):
    """The table for a terminal: first column left, the others right, escapes and control characters made harmless.

    Raises:
      DataError: a row's length differs from the columns'.
    """
    _check_table(columns, rows)
    lines = [[pictures.visible(cell) for cell in line] for line in [columns, *rows]]
    widths = [max(map(_display_width, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(_pad, line, widths, range(len(line)))).rstrip() for line in lines)


def plot(curves, method):
    """Curves -> Plot. The accuracy axis starts at 0: a small difference looks small."""
    _check_curves(curves)
    points = np.array([point for line in curves.values() for point in line], np.float64)
    x_low, x_high = points[:, 0].min(), points[:, 0].max()
    x_high = max(x_high, x_low + 1)
    y_step = _tick_step(max(points[:, 1].max(), 0.01))
    y_high = y_step * math.ceil(points[:, 1].max() / y_step - 1e-9) or y_step

    def to_svg(x, y):
        right, down = (x - x_low) / (x_high - x_low), 1 - y / y_high
        left, top, width, height = PLOT["left"], PLOT["top"], PLOT["right"] - PLOT["left"], PLOT["bottom"] - PLOT["top"]
        return round(float(left + right * width), 1), round(float(top + down * height), 1)

    x_ticks = [(to_svg(x, 0)[0], f"{x:g}") for x in _ticks(x_low, x_high, max(1.0, _tick_step(x_high - x_low)))]
    y_ticks = [(to_svg(x_low, y)[1], f"{100 * y:g}") for y in _ticks(0.0, y_high, y_step)]
    return Plot(x_ticks, y_ticks, _lines(curves, method, to_svg))


def _lines(curves, method, to_svg):
    """The method's line last, so that it lies on top."""
    others = [name for name in curves if name.lower() != method.lower()]
    styles = {name: f"line{i % N_COLOURS}" for i, name in enumerate(others)}
    lines = []
    for name in others + [name for name in curves if name not in styles]:
        points = [to_svg(x, y) for x, y in curves[name]]
        text = " ".join(f"{x},{y}" for x, y in points)
        lines.append(Line(name, styles.get(name, "method"), text, points[-1], f"{100 * curves[name][-1][1]:.1f}"))
    return lines


def _tick_step(span):
    """The smallest of 1, 2, 5 times a power of ten that cuts the span into at most 5."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5 * (1 - 1e-9))


def _ticks(low, high, step):
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _png(image):
    """An image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pretty(value):
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _display_width(text):
    """Terminal cells: two for wide East Asian characters, none for combining marks."""
    return sum((not unicodedata.combining(c)) * (1 + (unicodedata.east_asian_width(c) in "WF")) for c in text)


def _pad(cell, width, column):
    space = " " * (width - _display_width(cell))
    return space + cell if column else cell + space


def _check_table(columns, rows):
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            name = pictures.visible(row[0]) if row else ""
            raise DataError(
                f"report: row {i} ({name!r}) has {len(row)} cells for {len(columns)} columns; give a cell per column"
            )


def _check_curves(curves):
    for name, points in curves.items():
        if not points:
            raise DataError(f"report: curve {pictures.visible(name)!r} has no points; leave it out")
        for x, y in points:
            if not (math.isfinite(x) and 0 <= y <= 1):
                raise DataError(
                    f"report: curve {pictures.visible(name)!r} has accuracy {y} at epoch {x}; give fractions in [0, 1]"
                )
