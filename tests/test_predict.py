"""`MaskFrozenDetr.predict`: pictures of all kinds, thresholds, given boxes."""

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from same_instances import THRESHOLD, change, same
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.model import CONFIG_FILE
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.inference import segment

# --- predict ---


def test_all_forms_of_an_image_are_the_same(model, photo):
    image = read_image(photo)
    expected = model.predict(str(photo), THRESHOLD)
    assert (expected.height, expected.width) == (image.height, image.width)
    for form in (photo, image, np.asarray(image)):
        assert same(model.predict(form, THRESHOLD), expected)
    several = model.predict([photo, image, np.asarray(image)], THRESHOLD)
    assert isinstance(several, list)
    assert all(same(one, expected) for one in several)
    assert model.predict([], THRESHOLD) == []


def test_modes(model, photo, tmp_path):
    """Grey, alpha, palette and 16 bits are as the same picture in RGB, from a file or as a PIL image."""
    grey = read_image(photo).convert("L")
    expected = model.predict(grey.convert("RGB"), THRESHOLD)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    clear = grey.convert("RGBA")
    for form in (grey, deep, clear, grey.convert("P")):
        path = tmp_path / f"{form.mode.replace(';', '-')}.png"
        form.save(path)
        assert same(model.predict(path, THRESHOLD), expected), form.mode
        assert same(model.predict(form, THRESHOLD), expected), form.mode


def test_transparency_lies_over_white(model, photo):
    image = read_image(photo).convert("RGBA")
    image.putalpha(0)
    white = Image.new("RGB", image.size, "white")
    assert same(model.predict(image, THRESHOLD), model.predict(white, THRESHOLD))


def test_photos_are_turned_upright(model, photo, tmp_path):
    upright = read_image(photo)
    assert upright.width != upright.height
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    turned.save(tmp_path / "camera.png", exif=exif)
    found = model.predict(tmp_path / "camera.png", THRESHOLD)
    assert (found.height, found.width) == (upright.height, upright.width)
    assert same(found, model.predict(upright, THRESHOLD))


FORMS: dict[str, Callable[[np.ndarray], object]] = {
    "an array (H, W, 3)": lambda rgb: rgb,
    "an array of the other byte order of rows": lambda rgb: np.ascontiguousarray(rgb[::-1])[::-1],
    "floats": lambda rgb: rgb / 255,
    "half floats": lambda rgb: (rgb / 255).astype(np.float16),
    "16 bits": lambda rgb: rgb.astype(np.uint16) * 257,
    "opaque RGBA": lambda rgb: np.concatenate([rgb, np.full_like(rgb[:, :, :1], 255)], 2),
    "a tensor (3, H, W)": lambda rgb: torch.from_numpy(rgb).permute(2, 0, 1),
    "a tensor of floats": lambda rgb: (torch.from_numpy(rgb).permute(2, 0, 1) / 255).requires_grad_(),
    "encoded bytes": lambda rgb: encoded(rgb),
    "a memoryview": lambda rgb: memoryview(encoded(rgb)),
    "a file object": lambda rgb: io.BytesIO(encoded(rgb)),
}


def encoded(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_arrays_tensors_and_bytes_are_the_picture(form, model, photo):
    rgb = np.array(read_image(photo))
    expected = model.predict(photo, THRESHOLD)
    assert same(model.predict(FORMS[form](rgb), THRESHOLD), expected)
    assert same(model.predict([FORMS[form](rgb)], THRESHOLD)[0], expected)


GREYS: dict[str, Callable[[np.ndarray], object]] = {
    "an array (H, W)": lambda grey: grey,
    "an array (H, W, 1)": lambda grey: grey[:, :, None],
    "16 bits": lambda grey: grey.astype(np.uint16) * 257,
    "a tensor (1, H, W)": lambda grey: torch.from_numpy(grey)[None],
}


@pytest.mark.parametrize("form", GREYS)
def test_greys_are_the_same_picture_in_rgb(form, model, photo):
    grey = np.array(read_image(photo).convert("L"))
    expected = model.predict(Image.fromarray(grey).convert("RGB"), THRESHOLD)
    assert same(model.predict(GREYS[form](grey), THRESHOLD), expected)


def test_bools_are_black_and_white(model):
    mask = np.zeros((40, 50), bool)
    mask[10:30, 5:25] = True
    expected = model.predict(Image.fromarray(mask.astype(np.uint8) * 255), THRESHOLD)
    for form in (mask, torch.from_numpy(mask)[None], Image.fromarray(mask)):
        assert same(model.predict(form, THRESHOLD), expected)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_pil_images_of_any_mode(mode, model):
    found = model.predict(Image.new(mode, (40, 30)), 0.0)
    assert (found.width, found.height) == (40, 30)


def test_several_at_once(model, photo):
    expected = model.predict(photo, THRESHOLD)
    for several in ((photo, str(photo)), iter([photo, photo]), (path for path in [photo, photo]), {photo: 1}.keys()):
        found = model.predict(several, THRESHOLD)
        assert isinstance(found, list)
        assert all(same(one, expected) for one in found)
    assert model.predict((), THRESHOLD) == model.predict(iter([]), THRESHOLD) == []


NO_PICTURES: dict[str, tuple[object, str]] = {
    "None": (None, "found NoneType, expected a path"),
    "a number": (3, "found int"),
    "a dictionary": ({"image": 1}, "found dict"),
    "a list of lists": ([[1, 2]], "found list"),
    "an address": ("ftp://example.com/a.jpg", "found the address.*download it first"),
    "a list of None": ([None], "found NoneType"),
    "text from a file": (io.StringIO("x"), "gives str, expected mode 'rb'"),
    "channels first": (np.zeros((3, 20, 30), np.uint8), r"array \(3, 20, 30\) uint8.*expected an array"),
    "two channels": (np.zeros((20, 30, 2), np.uint8), "expected an array"),
    "no pixel": (np.zeros((0, 30, 3), np.uint8), "with pixels"),
    "a batch": (np.zeros((2, 20, 30, 3), np.uint8), "several pictures as a list"),
    "floats of 255": (np.full((20, 30, 3), 200.0), r"values from 200 to 200, expected floats in \[0, 1\]"),
    "NaN": (np.full((20, 30, 3), np.nan), r"expected floats in \[0, 1\]"),
    "long integers": (np.zeros((20, 30, 3), np.int64), "int64, expected uint8"),
    "objects": (np.full((20, 30), None), "object, expected uint8"),
    "text": (np.full((20, 30), "x"), "expected uint8"),
    "a tensor channels last": (
        torch.zeros(20, 30, 3, dtype=torch.uint8),
        r"tensor \(20, 30, 3\).*expected \(1, H, W\)",
    ),
    "a batch of tensors": (torch.zeros(2, 3, 20, 30), r"several pictures as a list: list\(tensor\)"),
    "a tensor of long integers": (torch.zeros(3, 20, 30, dtype=torch.int64), "int64"),
    "an empty PIL image": (Image.new("RGB", (0, 5)), "found 0 × 5 pixels"),
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_a_clear_type_error(kind, model):
    value, words = NO_PICTURES[kind]
    with pytest.raises(TypeError, match=words) as caught:
        model.predict(value)
    assert isinstance(caught.value, UserError)


UNREADABLE: dict[str, Callable[[bytes], object]] = {
    "no bytes": lambda png: b"",
    "other bytes": lambda png: b"hello",
    "bytes cut short": lambda png: png[: len(png) // 2],
    "a closed PIL image": lambda png: closed(png),
    "a PIL image cut short": lambda png: Image.open(io.BytesIO(png[: len(png) // 2])),
    "a PIL image of a rare mode": lambda png: Image.new("La", (40, 30)),
    "a path": lambda png: "nowhere.jpg",
}


def closed(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.close()
    return image


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_a_clear_error(kind, model):
    value = UNREADABLE[kind](encoded(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)))
    with pytest.raises(UserError) as caught:
        model.predict(value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score_threshold": float("nan")}, "score_threshold: found nan"),
        ({"score_threshold": -0.1}, "expected a number from 0 to 1"),
        ({"score_threshold": 30}, "score_threshold: found 30"),
        ({"score_threshold": "high"}, "score_threshold: found 'high'"),
        ({"max_detections": 0}, "max_detections: found 0"),
        ({"max_detections": -3}, "expected a whole number, at least 1"),
        ({"max_detections": 2.5}, "max_detections: found 2.5"),
    ],
)
def test_thresholds_without_sense(options, words, model, photo):
    with pytest.raises(UserError, match=words):
        model.predict(photo, **options)


def test_encoded_photos_are_turned_upright(model, photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    read_image(photo).transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    assert same(model.predict(buffer.getvalue(), THRESHOLD), model.predict(photo, THRESHOLD))


def test_detections_an_image_are_those_of_the_training(model, saved_model, copied_model, photo):
    """Stored with the run; older runs have it only where they say how they were trained."""
    assert MaskFrozenDetr.from_pretrained(saved_model).max_detections == 100
    change(copied_model / CONFIG_FILE, max_detections=7)
    assert len(MaskFrozenDetr.from_pretrained(copied_model).predict(photo, 0.0)) == 7
    assert len(MaskFrozenDetr.from_pretrained(copied_model).predict(photo, 0.0, max_detections=9)) == 9
    content = json.loads((copied_model / CONFIG_FILE).read_text())
    del content["max_detections"]
    (copied_model / CONFIG_FILE).write_text(json.dumps(content))
    (copied_model / "training.json").write_text(json.dumps({"max_detections": 5}))
    assert len(MaskFrozenDetr.from_pretrained(copied_model).predict(photo, 0.0)) == 5
    (copied_model / "training.json").write_text("{")
    assert MaskFrozenDetr.from_pretrained(copied_model).max_detections == 100
    change(copied_model / CONFIG_FILE, max_detections="many")
    with pytest.raises(UserError, match=r"is damaged.*max_detections is 'many'"):
        MaskFrozenDetr.from_pretrained(copied_model)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_the_smallest_images(size, model, padding, tiny_network):
    found = model.predict(Image.new("RGB", size, "red"), 0.0)
    assert (found.width, found.height) == size
    assert found.masks.shape == (len(found), size[1], size[0])


def test_thresholds(model, photo):
    everything = model.predict(photo, 0.0, max_detections=60)
    assert len(everything) == 60  # 20 queries, 3 classes
    assert (np.diff(everything.scores) <= 0).all()
    threshold = float(np.median(everything.scores))
    some = model.predict(photo, threshold, max_detections=60)
    assert 20 < len(some) < 40
    assert same(some, everything.above(threshold))
    assert len(model.predict(photo, 0.0, max_detections=7)) == 7
    none = model.predict(photo, 1.0)
    assert len(none) == 0
    assert none.masks.shape == (0, none.height, none.width)


def test_probabilities_are_kept_on_request(model, photo):
    found = model.predict(photo, THRESHOLD, probabilities=True)
    assert np.array_equal(found.probabilities > 0.5, found.masks)
    with pytest.raises(ValueError, match="probability maps were not kept"):
        _ = model.predict(photo, THRESHOLD).probabilities


def test_scores_are_class_score_times_iou(model, photo, squashing, tiny_network):
    """Equation 13; without mask scoring equation 2: the mean probability inside the mask."""
    found = model.predict(photo, 0.0)
    assert (found.scores <= found.class_scores).all()
    plain = scattered(squashing, MaskNetworkConfig(**{**vars(tiny_network), "mask_scoring": False}))
    found = plain.predict(photo, 0.0, probabilities=True)
    probabilities = found.probabilities
    for k in range(0, len(found), 5):
        inside = probabilities[k][probabilities[k] > 0.5]
        factor = inside.mean() if len(inside) else 0
        assert found.scores[k] == pytest.approx(found.class_scores[k] * factor, rel=1e-4)


def test_a_batch_in_which_one_image_shows_nothing(model, squashing, scenes):
    images = [read_image(record.path) for record in scenes[1].images[:2]]
    tensors = [squashing.info.preprocessing(image) for image in images]
    sizes = [(image.height, image.width) for image in images]
    best = [squashing(*collate_images([tensor])).logits.sigmoid().max().item() for tensor in tensors]
    assert best[0] != best[1]
    found = segment(squashing, model.network.eval(), *collate_images(tensors), sizes, score_threshold=min(best) + 1e-6)
    counts = [len(instances) for instances in found]
    assert counts[best.index(min(best))] == 0
    assert max(counts) > 0
    assert [(instances.height, instances.width) for instances in found] == sizes
    nothing = segment(squashing, model.network, *collate_images(tensors), sizes, score_threshold=1.0)
    assert [len(instances) for instances in nothing] == [0, 0]
