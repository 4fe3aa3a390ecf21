"""Pictures show what they should where they should: looked at pixel by pixel."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_frozen_detr.data.coco import Annotation, ImageRecord
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results import fonts as fonts_module
from mask_frozen_detr.results.drawing import (
    draw_boxes,
    draw_instances,
    draw_probability_map,
    draw_probability_maps,
    draw_truth,
    draw_wall,
)
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.label_placement import place_labels
from mask_frozen_detr.results.paste import Crop

HEIGHT, WIDTH = 240, 320
GREY = (120, 120, 120)


def grey() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), GREY)


def make(masks: list[np.ndarray], names: list[str] | None = None) -> Instances:
    """Instances of (H, W) masks, with their boxes and maps."""
    crops = [Crop.of_mask(mask) for mask in masks]
    boxes = [(crop.x, crop.y, crop.x + crop.values.shape[1], crop.y + crop.values.shape[0]) for crop in crops]
    scores = np.linspace(0.9, 0.4, len(masks), dtype=np.float32)
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=scores,
        class_scores=scores,
        labels=np.zeros(len(masks), np.int64),
        names=names or ["thing"] * len(masks),
        crops=crops,
        height=HEIGHT,
        width=WIDTH,
        probability_crops=[Crop(crop.x, crop.y, crop.values.astype(np.float32)) for crop in crops],
    )


def disc(x: float, y: float, radius: float, hole: float = 0.0) -> np.ndarray:
    distance = np.hypot(np.arange(WIDTH) + 0.5 - x, np.arange(HEIGHT)[:, None] + 0.5 - y)
    return (distance < radius) & (distance >= hole)


def changed(picture: Image.Image) -> np.ndarray:
    return (np.array(picture) != GREY).any(-1)


def test_mask_is_coloured_to_the_pixel():
    """Inside of the box, nothing but the mask changes: no pixel more, none less, the hole stays open."""
    mask = disc(160, 130, 80, hole=30)
    image = grey()
    drawn = changed(draw_instances(image, make([mask])))
    inner = np.s_[60:200, 90:230]  # off box and label
    np.testing.assert_array_equal(drawn[inner], mask[inner])
    assert not changed(image).any()


def test_outline_is_the_mask_outermost_pixels():
    mask = disc(160, 130, 80)
    picture = np.array(draw_instances(grey(), make([mask])))
    middle, border = picture[130, 160], picture[130, 160 + 79]
    assert mask[130, 160 + 79]
    assert not mask[130, 160 + 80]
    assert (middle != border).any()
    np.testing.assert_array_equal(picture[130, 160 + 70], middle)  # filled evenly
    assert np.ptp(border) > np.ptp(middle)  # full colour


def test_small_masks_lie_over_large_ones():
    large, small = disc(160, 130, 90), disc(150, 120, 20)
    alone = np.array(draw_instances(grey(), make([large])))[120, 150]
    for masks in ([large, small], [small, large]):
        both = np.array(draw_instances(grey(), make(masks)))
        assert (both[120, 150] != both[180, 160]).any()
    assert (alone != GREY).any()


def test_instances_differ_in_colour():
    masks = [disc(30 + 50 * i, 120, 20) for i in range(6)]
    picture = np.array(draw_instances(grey(), make(masks)))
    colours = picture[120, [30 + 50 * i for i in range(6)]].astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + np.eye(6) * 999
    assert apart.min() > 30


def test_boxes_alone_leave_the_inside_as_it_is():
    drawn = changed(draw_boxes(grey(), make([disc(160, 130, 80)])))
    assert drawn[50:210, 80].all()
    assert drawn[50:210, 239].all()
    assert drawn[50, 80:240].all()
    assert drawn[209, 80:240].all()
    assert not drawn[55:205, 85:235].any()
    assert not drawn[215:].any()


@pytest.mark.parametrize(
    "box",
    [(-20, -9, 400, 300), (10, 10, 10, 10), (300, 200, 290, 190), (-50, -50, -20, -20), (400, 300, 500, 380)],
    ids=["over all borders", "a point", "inside out", "left above", "right below"],
)
def test_odd_boxes_are_drawn(box):
    odd = replace(make([disc(160, 130, 80)]), boxes=np.array([box], np.float32))
    assert changed(draw_instances(grey(), odd))[130, 160]
    assert draw_probability_maps(grey(), odd).width > 100


def test_nothing_is_the_picture_itself():
    assert not changed(draw_instances(grey(), Instances.empty(HEIGHT, WIDTH))).any()
    assert not changed(draw_boxes(grey(), Instances.empty(HEIGHT, WIDTH))).any()
    assert draw_probability_maps(grey(), Instances.empty(HEIGHT, WIDTH)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("draw", [draw_instances, draw_boxes, draw_probability_maps])
def test_another_size_is_an_error(draw):
    with pytest.raises(ValueError, match="found an image of 240 × 320 pixels, expected the instances' 320 × 240"):
        draw(grey().rotate(90, expand=True), make([disc(160, 130, 80)]))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_are_drawn_in_colour(mode):
    picture = draw_instances(grey().convert(mode), make([disc(160, 130, 80)]))
    assert picture.mode == "RGB"
    assert changed(picture)[130, 160]


def test_labels_keep_apart_and_within_the_picture():
    boxes = np.array([[10 + 14 * i, 50, 22 + 14 * i, 70] for i in range(16)], np.float64)
    places = place_labels(np.tile([60.0, 14.0], (16, 1)), boxes, WIDTH, HEIGHT)
    assert (places >= 0).all()
    assert (places[:, 2] <= WIDTH).all()
    assert (places[:, 3] <= HEIGHT).all()
    for i in range(16):
        for j in range(i):
            common = np.minimum(places[i, 2:], places[j, 2:]) - np.maximum(places[i, :2], places[j, :2])
            assert (common <= 0).any(), f"labels {i} and {j} overlap"
        for box in boxes:
            common = (np.minimum(places[i, 2:], box[2:]) - np.maximum(places[i, :2], box[:2])).clip(0).prod()
            assert common < 0.3 * 12 * 20, f"label {i} hides a box"


def test_a_lone_label_sits_on_its_box():
    box = np.array([[50.0, 60.0, 150.0, 160.0]])
    np.testing.assert_array_equal(place_labels(np.array([[60.0, 14.0]]), box, WIDTH, HEIGHT), [[50, 46, 110, 60]])


def test_labels_are_left_out_of_pictures_too_small_for_them():
    mask = np.zeros((20, 30), bool)
    mask[4:12, 5:15] = True
    one = make([disc(160, 130, 80)], ["a very long name"])
    box = np.array([[5, 4, 15, 12]], np.float32)
    tiny = replace(one, boxes=box, crops=[Crop.of_mask(mask)], height=20, width=30)
    drawn = changed(draw_instances(Image.new("RGB", (30, 20), GREY), tiny))
    np.testing.assert_array_equal(drawn, mask)


def test_truth_draws_polygons_run_lengths_and_crowds():
    rectangle = [[40.0, 100.0, 120.0, 100.0, 120.0, 180.0, 40.0, 180.0]]
    counts = np.zeros((WIDTH, HEIGHT), bool)  # column by column
    counts[200:260, 60:160] = True
    runs = np.diff(np.flatnonzero(np.diff(counts.ravel(), prepend=False)), prepend=0)
    lengths = [*runs.tolist(), HEIGHT * WIDTH - int(runs.sum())]
    annotations = (
        Annotation(1, 5, (40, 100, 80, 80), rectangle, False, 6400.0),
        Annotation(2, 6, (200, 60, 60, 100), {"size": [HEIGHT, WIDTH], "counts": lengths}, True, 6000.0),
    )
    record = ImageRecord(1, Path("a.jpg"), WIDTH, HEIGHT, annotations)
    drawn = changed(draw_truth(grey(), record, {5: "dog", 6: "person"}))
    assert drawn[110:170, 50:110].all()
    assert drawn[85:155, 205:255].all()
    assert not drawn[60:, 125:195].any()
    assert not drawn[200:].any()


def test_probability_map_is_red_for_high_and_blue_for_low():
    probability = np.zeros((HEIGHT, WIDTH), np.float32)
    probability[:, 100:200], probability[:, 200:] = 0.5, 0.95
    picture = np.array(draw_probability_map(grey(), probability)).astype(int)
    low, middle, high = picture[120, 50], picture[120, 150], picture[120, 250]
    assert low.argmax() == 2
    assert middle.argmax() == 1
    assert high.argmax() == 0
    assert (low[0], high[2]) == (48, 48)  # of the image, 0.4 shows through
    with pytest.raises(ValueError, match=r"found a map of \(320, 240\)"):
        draw_probability_map(grey(), probability.T)


def test_probability_maps_show_the_best_first_in_their_surroundings():
    masks = [disc(40, 40, 30), disc(240, 160, 50)]
    instances = make(masks)[[1, 0]]  # the better one second
    grid = np.array(draw_probability_maps(grey(), instances)).astype(int)
    red, blue = grid[..., 0] - grid[..., 2] > 60, grid[..., 2] - grid[..., 0] > 60
    half = grid.shape[1] // 2
    for side, mask, box in (
        (np.s_[:, :half], masks[0], (0, 0, 85, 85)),
        (np.s_[:, half:], masks[1], (165, 85, 315, 235)),
    ):
        share = red[side].sum() / (red[side].sum() + blue[side].sum())
        expected = mask.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
        assert share == pytest.approx(expected, abs=0.03)
    with pytest.raises(ValueError, match="not kept"):
        draw_probability_maps(grey(), replace(instances, probability_crops=None))


def test_probability_maps_do_not_depend_on_the_size_of_the_crops():
    tight = make([disc(40, 40, 30), disc(240, 160, 50)])
    assert tight.probability_crops
    whole = replace(tight, probability_crops=[Crop(0, 0, full) for full in tight.probabilities])
    np.testing.assert_array_equal(draw_probability_maps(grey(), whole), draw_probability_maps(grey(), tight))


def test_wall_puts_each_picture_into_its_cell():
    red, green = Image.new("RGB", (50, 100), "red"), Image.new("RGB", (400, 200), "lime")
    side = 400  # of a cell
    wall = draw_wall([[red, green], [green, red], [red]], ["image", "masks"])
    pixels = np.array(wall).astype(int)
    assert wall.width == 8 + 2 * (side + 8)
    is_red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    is_green = (pixels[..., 1] > 200) & (pixels[..., 0] < 50)
    assert is_red.sum() == pytest.approx(3 * side * side / 2, rel=0.02)
    assert is_green.sum() == pytest.approx(2 * side * side / 2, rel=0.02)
    rows = np.flatnonzero(is_red.any(1))
    first, second, middle = rows[0] + 20, rows[0] + side + 8 + 20, wall.width // 2
    assert is_red[first, :middle].any()
    assert is_green[first, middle:].any()
    assert is_green[second, :middle].any()
    assert is_red[second, middle:].any()
    titles = pixels[: rows[0]].sum(-1) < 200
    assert titles[:, :middle].any()
    assert titles[:, middle:].any()
    assert draw_wall([], ["image"]).width > 100


# --- letters ---

CHINESE, ARABIC = "猫", "قطة"


@pytest.fixture
def fonts(tmp_path, monkeypatch) -> Callable[..., Path]:
    """`fonts(letters)` puts a font that has these letters, as full squares, among the system's, which has no other."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    folder = tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(fonts_module, "font_folders", lambda: [folder])

    def make(letters: str, name: str = "squares.ttf") -> Path:
        def square(side: int) -> object:
            pen = pens.TTGlyphPen(None)
            for k, point in enumerate([(0, 0), (0, side), (side, side), (side, 0)]):
                (pen.lineTo if k else pen.moveTo)(point)
            pen.closePath()
            return pen.glyph()

        glyphs = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
        font = builder.FontBuilder(1000, isTTF=True)
        font.setupGlyphOrder(glyphs)
        font.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
        font.setupGlyf({glyph: square(800 if k else 300) for k, glyph in enumerate(glyphs)})
        font.setupHorizontalMetrics({glyph: (900, 0) for glyph in glyphs})
        font.setupHorizontalHeader(ascent=900, descent=-100)
        font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
        font.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
        font.setupPost()
        font.save(folder / name)
        return folder / name

    return make


def label_pixels(name: str, font: Path | None = None) -> np.ndarray:
    """The label of one instance: what lies above its box."""
    return np.array(draw_instances(grey(), make([disc(160, 130, 80)], [name]), font))[25:49, 78:240]


def test_letters_that_the_own_font_lacks_are_drawn_by_a_system_font(fonts):
    fonts(CHINESE)
    square, unknown = label_pixels(CHINESE), label_pixels("?")
    assert (square != unknown).any()
    ink = (square.astype(int).sum(-1) < 60).sum() if square.min() == 0 else (square.astype(int).sum(-1) > 700).sum()
    assert ink > 1.5 * 30, "a full square of some 8 × 8 pixels"
    assert not fonts_module.undrawable(CHINESE + "abc")


def test_letters_that_no_font_has_are_told_and_no_boxes(fonts):
    assert fonts_module.undrawable(f"{CHINESE} {ARABIC} {CHINESE} abc") == "猫قطة"
    np.testing.assert_array_equal(label_pixels(CHINESE), label_pixels("?"))
    np.testing.assert_array_equal(label_pixels("a" + CHINESE), label_pixels("a?"))


def test_a_font_of_the_users_choice_goes_first(fonts, tmp_path):
    chosen = fonts("abc", "chosen.ttf").rename(tmp_path / "chosen.ttf")
    fonts_module.check_font(chosen)
    assert (label_pixels("abc", chosen) != label_pixels("abc")).any()
    np.testing.assert_array_equal(label_pixels("xyz", chosen), label_pixels("xyz"))
    (tmp_path / "text.ttf").write_text("no font")
    for place in (tmp_path / "text.ttf", tmp_path / "gone.ttf"):
        with pytest.raises(UserError, match=f"font: found .*{place.name}, which cannot be opened"):
            fonts_module.check_font(place)


def test_widths_add_up_over_several_fonts(fonts):
    fonts(CHINESE + ARABIC)
    alone = [fonts_module.text_width(text, 20) for text in ("cat ", CHINESE, " ", ARABIC)]
    assert fonts_module.text_width(f"cat {CHINESE} {ARABIC}", 20) == pytest.approx(sum(alone), abs=2)
    assert min(alone) > 0


@pytest.mark.skipif(not Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf").exists(), reason="no DejaVu here")
def test_arabic_and_emoji_of_an_installed_font():
    assert not fonts_module.undrawable(f"{ARABIC} 😀")
    assert (label_pixels(ARABIC) != label_pixels("???")).any()
    assert (label_pixels("😀") != label_pixels("?")).any()


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\u202eb", "\x00", "", " ", "a\ud800b", "n" * 5000])
def test_control_characters_and_long_names_are_drawn_harmlessly(name):
    assert (label_pixels(name) != GREY).any() or len(name) > 100, "too wide for the picture"
    assert draw_probability_maps(grey(), make([disc(160, 130, 80)], [name])).width < 3000


def test_the_box_of_an_object_without_a_mask_is_drawn():
    record = ImageRecord(1, Path("a.jpg"), WIDTH, HEIGHT, (Annotation(1, 5, (40, 100, 80, 80), None, False, 6400.0),))
    drawn = changed(draw_truth(grey(), record, {5: "dog"}))
    assert drawn[100, 40:120].all()
    assert not drawn[105:175, 45:115].any()
