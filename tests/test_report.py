"""Pictures are exact where they promise to be; the page is self-contained and shows hostile names as text."""

import base64
import html.parser
import io
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from infoutil_jax import pictures, report
from infoutil_jax.errors import DataError, NumericError

EVIL = "<script>alert('1')</script>"


def random_images(n, height=8, width=8, *, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def find(sheet, pattern):
    """The places (top, left) where a picture occurs in another, by looking everywhere its first pixel does."""
    pixels = np.asarray(sheet.convert("RGB"))
    height, width = pattern.shape[:2]
    starts = np.argwhere((pixels == pattern[0, 0]).all(-1))
    return [(y, x) for y, x in starts if np.array_equal(pixels[y : y + height, x : x + width], pattern)]


def enlarge(image_u8, factor):
    return np.kron(image_u8, np.ones((factor, factor, 1), np.uint8))


# contact sheets


def test_sheet_holds_every_image_enlarged_exactly_a_row_per_class():
    images, labels = random_images(12), np.array([2, 0, 1] * 4)
    sheet = pictures.contact_sheet(images, labels, ["a", "b", "c"], tile=70, columns=4)
    places = [find(sheet, enlarge(image, 8)) for image in images]  # 70 // 8 = 8 screen pixels per pixel
    assert [len(found) for found in places] == [1] * 12
    (tops, lefts) = np.array(places)[:, 0].T
    for label in range(3):
        assert len(set(tops[labels == label])) == 1
        assert np.array_equal(np.diff(lefts[labels == label]), [64 + pictures.GAP] * 3)  # in the order given


def test_sheet_size_is_a_tile_and_a_gap_per_image_and_class():
    def size(n_classes, per_class, tile=128):
        labels = np.repeat(np.arange(n_classes), per_class)
        names = ["name"] * n_classes
        return pictures.contact_sheet(random_images(len(labels)), labels, names, tile=tile).size

    assert size(3, 8)[1] == 3 * 128 + 2 * pictures.GAP
    assert size(4, 8)[0] - size(4, 7)[0] == 128 + pictures.GAP
    assert size(4, 8)[1] - size(3, 8)[1] == 128 + pictures.GAP
    width, height = size(20, 1, tile=64)
    assert width <= pictures.SHEET_WIDTH and height < 5 * 64  # classes of one image share lines


def test_sheet_caps_a_large_class_and_says_so():
    images, labels = random_images(25), np.zeros(25, int)
    capped = pictures.contact_sheet(images, labels, ["a"])
    assert [len(find(capped, enlarge(image, 8))) for image in images] == [1] * 10 + [0] * 15
    without_note = pictures.contact_sheet(images[:10], labels[:10], ["a"])
    assert np.array_equal(np.asarray(capped)[:, : without_note.width], np.asarray(without_note))
    assert np.asarray(capped)[:, without_note.width :, 3].any()  # ink of the note


def test_sheet_of_many_classes_shows_the_first_and_notes_the_rest():
    images, labels = random_images(120, 2, 2), np.arange(120)
    full = pictures.contact_sheet(images[:100], labels[:100], [""] * 120, tile=4)
    noted = pictures.contact_sheet(images, labels, [""] * 120, tile=4)
    assert np.array_equal(np.asarray(noted)[: full.height, : full.width], np.asarray(full))
    assert np.asarray(noted)[full.height :, :, 3].any()


def test_sheet_shrinks_large_images_and_survives_odd_names():
    images = random_images(3, 100, 200)
    names = ["x" * 500, "a\nb\x1b[31m\udc80", "鳥 é"]
    sheet = pictures.contact_sheet(images, np.arange(3), names, tile=64)
    assert sheet.width <= pictures.SHEET_WIDTH and sheet.height <= 3 * 32 + 2 * pictures.GAP
    written_out = pictures.contact_sheet(images, np.arange(3), [names[0], r"a\nb\x1b[31m\udc80", names[2]], tile=64)
    assert np.array_equal(np.asarray(sheet), np.asarray(written_out))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_sheet_writes_each_name_beside_its_class(label):
    names = ["wide" if i == label else "" for i in range(3)]
    sheet = np.asarray(pictures.contact_sheet(random_images(30), np.repeat(np.arange(3), 10), names))
    name_width = sheet.shape[1] - (10 * 64 + 10 * pictures.GAP)
    ink = np.flatnonzero(sheet[:, :name_width, 3].any(1))
    assert {y // (64 + pictures.GAP) for y in ink} == {label}


@pytest.mark.parametrize(
    "images, labels, names, words",
    [
        (np.zeros((2, 8, 8, 3), np.float32), [0, 0], ["a"], "uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), [], ["a"], "not empty"),
        (np.zeros((2, 8, 8), np.uint8), [0, 0], ["a"], r"\(N, H, W, 3\)"),
        (random_images(2), [0], ["a"], "1 labels for 2 images"),
        (random_images(2), [0, 1], ["a"], "1 class names"),
        (random_images(2), [0, -1], ["a"], "from -1"),
    ],
)
def test_sheet_names_what_is_wrong(images, labels, names, words):
    with pytest.raises(DataError, match=words):
        pictures.contact_sheet(images, labels, names)


# heat-maps


def cell_mean(picture, row, column, grid):
    pixels, side = np.asarray(picture, np.float64), picture.height // grid
    return pixels[row * side : (row + 1) * side, column * side : (column + 1) * side].mean((0, 1))


def test_heatmap_is_red_above_zero_blue_below_grey_at_zero():
    phi = np.array([[2.0, -2.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    picture = pictures.heatmap(np.full((12, 12, 3), 90, np.uint8), phi, size=36)
    redness = [[np.subtract(*cell_mean(picture, i, j, 3)[[0, 2]]) for j in range(3)] for i in range(3)]
    (strong_red, strong_blue, zero), (red, blue, _), (*_, last) = redness
    assert strong_red > red > 20 and strong_blue < blue < -20
    assert zero == last == 0
    assert np.array_equal(cell_mean(picture, 2, 2, 3), [90, 90, 90])


def test_heatmap_scale_does_not_change_the_picture_and_zero_is_the_grey_image():
    image, phi = random_images(1, 16, 16)[0], np.random.default_rng(1).normal(size=(4, 4))
    same = [np.asarray(pictures.heatmap(image, scale * phi)) for scale in (1.0, 1e-6)]
    assert np.array_equal(*same)
    zero = np.asarray(pictures.heatmap(image, 0 * phi, size=16), np.float64)
    luma = image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(zero - luma[..., None]).max() <= 1
    assert not np.array_equal(zero, same[0][::10, ::10])


def test_heatmap_outlines_the_box_and_nothing_else():
    image, phi = np.zeros((32, 32, 3), np.uint8), np.zeros((4, 4))
    picture = np.asarray(pictures.heatmap(image, phi, (8, 4, 12, 20), size=160))  # 5 screen pixels per pixel
    yellow = np.argwhere((picture == pictures.OUTLINE).all(-1))
    (top, left), (bottom, right) = yellow.min(0), yellow.max(0)
    assert (top, left, bottom, right) == (41, 21, 98, 118)  # inside the dark line, which runs on the box's rim
    changed = np.argwhere(picture.any(-1))
    assert (*changed.min(0), *changed.max(0)) == (40, 20, 99, 119)
    assert not picture[44:96, 24:116].any()


@pytest.mark.parametrize("box", [(31, 31, 1, 1), (0, 0, 32, 32), (9, 13, 23, 19)])
def test_box_at_the_rim_stays_inside_the_picture(box):
    picture = pictures.heatmap(np.full((32, 32, 3), 255, np.uint8), np.zeros((4, 4)), box, size=25)
    dark = np.argwhere((np.asarray(picture) == pictures.OUTLINE_EDGE).all(-1))
    assert list(dark.max(0)) == [24, 24]


def test_strip_pairs_each_image_with_its_own_heatmap():
    images, phis = random_images(5), np.random.default_rng(2).normal(size=(5, 4, 4))
    boxes = [None, (0, 0, 4, 4), None, (2, 2, 4, 4), None]
    strip = pictures.heatmap_strip(images, phis, boxes, size=40, columns=2)
    for image, phi, box in zip(images, phis, boxes):
        ((top, left),) = find(strip, enlarge(image, 5))
        heat = np.asarray(pictures.heatmap(image, phi, box, size=40))
        assert find(strip, heat) == [(top, left + 40 + pictures.GAP)]


def test_heatmap_refuses_what_it_cannot_draw():
    image = random_images(1)[0]
    with pytest.raises(NumericError, match="1 of 16 values"):
        pictures.heatmap(image, np.where(np.eye(4) * np.arange(4) == 3, np.nan, 1.0))
    with pytest.raises(DataError, match="phi_GG"):
        pictures.heatmap(image, np.zeros(4))
    with pytest.raises(DataError, match="2 images, 1 maps and 2 boxes"):
        pictures.heatmap_strip(random_images(2), np.zeros((1, 4, 4)), [None, None])


# the page


class Page(html.parser.HTMLParser):
    """Collects elements and text, and checks that every element that is opened is closed in order."""

    VOID = {"meta", "img"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, *tags):
        return [attributes for tag, attributes in self.tags if tag in tags]


def demo(**changes):
    sheet = pictures.contact_sheet(random_images(4), [0, 0, 1, 1], ["cat", "dog"])
    heat = pictures.heatmap_strip(random_images(2), np.ones((2, 4, 4)), [None, (1, 1, 4, 4)])
    values = dict(
        title="A run",
        summary=[("Student", "51.2 %"), ("Images", "4")],
        columns=["Method", "Top-1", "Seeds"],
        rows=[["Random", "40.1", "3"], ["infoutil", "51.2", "3"]],
        table_note="Three seeds.",
        contact_sheet=sheet,
        heatmaps=heat,
        curves={"InfoUtil": [(0, 0.1), (10, 0.5)], "Random": [(0, 0.1), (10, 0.4)]},
        config={"select": {"per_class": 2, "names": ("é",)}},
        environment={"jax": "0.10.2"},
        files=[("a.tfrecord", "ab" * 32)],
        class_names=("cat", "dog"),
        timing=(["Stage", "Seconds"], [["distil", "61.5"], ["  score", "17.25"]]),
    )
    return report.Report(**(values | changes))


def test_page_is_well_formed_and_shows_everything():
    page = Page(report.to_html(demo()))
    assert page.open == []
    shown = ["A run", "Student", "51.2 %", "Three seeds.", "Method", "Top-1", "Seeds", "Random", "40.1", "infoutil"]
    for text in [*shown, "51.2", "3", "0.10.2", "a.tfrecord", "ab" * 32, "Seconds", "61.5", "score", "17.25"]:
        assert text in page.texts, text
    assert any('"per_class": 2' in text and '"é"' in text for text in page.texts)
    assert [a.get("class") for a in page.all("tr")][1:3] == [None, "method"]


def test_page_asks_for_nothing_outside_itself():
    text = report.to_html(demo())
    page = Page(text)
    assert not re.search(r"https?://|url\(|@import|javascript:", text)
    assert not page.all("script", "link", "iframe", "object", "a", "base", "form")
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_page_shows_hostile_names_as_text():
    evil_attribute = '"><img src=x onerror=alert(1)>'
    text = report.to_html(
        demo(
            title=EVIL,
            summary=[(EVIL, EVIL)],
            columns=[EVIL, "b"],
            rows=[[EVIL, EVIL]],
            table_note=EVIL,
            curves={EVIL: [(0, 0.5)], evil_attribute: [(0, 0.5)]},
            config={EVIL: EVIL},
            environment={EVIL: EVIL},
            files=[(EVIL + "\udc80", EVIL)],
            method=EVIL,
            class_names=(EVIL, evil_attribute),
        )
    )
    page = Page(text)
    assert "<script" not in text and not page.all("script") and len(page.all("img")) == 2
    assert page.texts.count(EVIL) == 12  # title twice, fact 2, header, row 2, note, legend, environment 2, hash
    assert EVIL + r"\udc80" in page.texts  # an undecodable byte in a file name
    assert any(f'"{EVIL}": "{EVIL}"' in shown for shown in page.texts)
    assert EVIL in page.all("img")[0]["alt"] and evil_attribute in page.all("img")[0]["alt"]
    assert text.encode("utf-8")


def test_page_is_readable_without_eyes():
    page = Page(report.to_html(demo()))
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert "cat, dog" in page.all("img")[0]["alt"]
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    (drawing,) = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert "InfoUtil 50.0 percent" in drawing["aria-label"] and "Random 40.0 percent" in drawing["aria-label"]


def test_embedded_images_decode_to_the_same_pixels():
    shown = demo()
    sources = [image["src"] for image in Page(report.to_html(shown)).all("img")]
    for source, picture in zip(sources, [shown.contact_sheet, shown.heatmaps], strict=True):
        decoded = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1], validate=True)))
        assert np.array_equal(np.asarray(decoded), np.asarray(picture))


def test_page_leaves_out_what_there_is_not():
    page = Page(report.to_html(demo(heatmaps=None, curves={}, summary=[], table_note="", timing=None)))
    assert len(page.all("img")) == 1 and not page.all("svg", "dl") and page.open == []
    assert len(page.all("table")) == len(Page(report.to_html(demo())).all("table")) - 1


def test_page_shows_what_the_sets_cost_where_it_is_known():
    rate = (["bits per class", "InfoUtil"], [["images", "193,303"], ["pixels as float32", "983,040"]])
    page, without = Page(report.to_html(demo(rate=rate))), Page(report.to_html(demo()))
    assert page.open == [] and {"bits per class", "193,303", "pixels as float32", "983,040"} <= set(page.texts)
    assert len(page.all("table")) == len(without.all("table")) + 1
    with pytest.raises(DataError, match="1 cells for 2 columns"):
        report.to_html(demo(rate=(rate[0], [["images"]])))


# curves


def test_curves_are_drawn_where_the_ticks_say():
    curves = {"InfoUtil": [(5, 0.12), (20, 0.37), (55, 0.86)], "Random": [(5, 0.3), (55, 0.0)]}
    drawn = report.plot(curves, "infoutil")
    assert [line.name for line in drawn.lines] == ["Random", "InfoUtil"]  # the method on top
    assert [line.style for line in drawn.lines] == ["line0", "method"]
    assert [text for _, text in drawn.x_ticks] == ["10", "20", "30", "40", "50"]
    assert [text for _, text in drawn.y_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert drawn.y_ticks[0][0] == report.PLOT["bottom"] and drawn.y_ticks[-1][0] == report.PLOT["top"]
    assert {line.points.split(",")[0] for line in drawn.lines} == {f"{float(report.PLOT['left'])}"}
    x_of = np.polyfit([float(text) for _, text in drawn.x_ticks], [x for x, _ in drawn.x_ticks], 1)
    y_of = np.polyfit([float(text) / 100 for _, text in drawn.y_ticks], [y for y, _ in drawn.y_ticks], 1)
    for line in drawn.lines:
        points = np.array([pair.split(",") for pair in line.points.split()], np.float64)
        given = np.array(curves[line.name])
        assert np.abs(points[:, 0] - np.polyval(x_of, given[:, 0])).max() < 0.2
        assert np.abs(points[:, 1] - np.polyval(y_of, given[:, 1])).max() < 0.2
        assert line.end == tuple(points[-1])
    assert drawn.lines[1].last == "86.0"


@pytest.mark.parametrize("points", [[(0, 0.0)], [(3, 1.0)], [(0, 0.001), (1, 0.0004)], [(0, 0.5), (100000, 0.501)]])
def test_extreme_curves_stay_inside_the_frame_with_few_ticks(points):
    drawn = report.plot({"one": points}, "")
    inside = np.array([pair.split(",") for pair in drawn.lines[0].points.split()], np.float64)
    low, high = [report.PLOT["left"], report.PLOT["top"]], [report.PLOT["right"], report.PLOT["bottom"]]
    assert (inside >= low).all() and (inside <= high).all()
    assert 1 <= len(drawn.x_ticks) <= 7 and 2 <= len(drawn.y_ticks) <= 7
    assert len({text for _, text in drawn.x_ticks}) == len(drawn.x_ticks)


@pytest.mark.parametrize("points, words", [([(0, 51.2)], "accuracy 51.2"), ([(0, np.nan)], "nan"), ([], "no points")])
def test_curves_outside_of_0_to_1_are_refused(points, words):
    with pytest.raises(DataError, match=words):
        report.to_html(demo(curves={"x": points}))


# the terminal's table


def cells_wide(text):
    """Terminal cells by another road: combining marks composed away, wide characters counted again."""
    composed = unicodedata.normalize("NFC", text)
    return len(composed) + sum(unicodedata.east_asian_width(c) in "WF" for c in composed)


def test_text_columns_align_with_unicode_names():
    names = ["plain", "鳥と魚", "cafe\u0301", "Größe"]
    text = report.to_text(["Method", "Top-1"], [[name, f"{i}.25"] for i, name in enumerate(names)])
    lines = text.split("\n")
    assert [line.split()[0] for line in lines[2:]] == names
    assert {cells_wide(line) for line in lines} == {len("Method") + 2 + len("Top-1")}
    assert lines[0] == "Method  Top-1" and lines[1] == "------  -----" and lines[2] == "plain    0.25"


def test_text_defuses_escapes_and_newlines():
    text = report.to_text(["a", "b"], [["\x1b[31mred\nline\u202e", "1"]])
    assert text.split("\n")[2] == r"\x1b[31mred\nline\u202e  1"


@pytest.mark.parametrize(
    "make",
    [
        report.to_text,
        lambda c, r: report.to_html(demo(columns=c, rows=r)),
        lambda c, r: report.to_html(demo(timing=(c, r))),
    ],
)
def test_ragged_rows_are_refused(make):
    with pytest.raises(DataError, match=r"row 1 \('y'\) has 1 cells for 2 columns"):
        make(["a", "b"], [["x", "1"], ["y"]])
