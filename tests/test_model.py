"""The model as a thing to save, load, share and ask: round trips to the bit, and clear errors for all else."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import build_squashing_detector
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic_detections import scatter_parameters

from mask_frozen_detr import Instances, MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors import Detections, DetectorInfo, FrozenDetector, Identity
from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.detectors.preprocessing import ShortestEdge, collate_images
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.given_boxes import segment_boxes
from mask_frozen_detr.results.inference import segment
from mask_frozen_detr.run.card import CARD_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES

THRESHOLD = 0.01


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "femto"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture(scope="module")
def photo(scenes) -> Path:
    return scenes[1].images[0].path


def same(first: Instances, second: Instances) -> bool:
    fields = ("boxes", "scores", "class_scores", "labels", "masks")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


# --- round trip ---


def test_a_loaded_model_gives_the_same_masks_to_the_bit(model, saved, photo):
    assert {path.name for path in saved.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES, CARD_FILE}
    again = MaskFrozenDetr.from_pretrained(saved)
    assert again.network.config == model.network.config
    assert again.network.shapes == model.network.shapes
    assert not again.network.training
    first, second = model.predict(photo, THRESHOLD), again.predict(photo, THRESHOLD)
    assert len(first) > 10
    assert first.masks.any()
    assert same(first, second)


def test_the_detectors_weights_stay_where_they_are(model, saved):
    kept = load_file(saved / WEIGHTS_FILE)
    assert set(kept) == set(model.network.state_dict())
    content = json.loads((saved / CONFIG_FILE).read_text())
    assert content["detector"]["weights"] == model.detector.info.identity.weights
    assert content["class_names"] == ["disc", "ring", "star"]
    assert content["preprocessing"]["size"] == {"height": 96, "width": 96}


def test_any_file_mode_is_readable(saved):
    """safetensors writes files that only their owner may read."""
    assert (saved / WEIGHTS_FILE).stat().st_mode & 0o044 == (saved / CONFIG_FILE).stat().st_mode & 0o044


@pytest.mark.parametrize("how", ["folder", "path", "loaded"])
def test_a_moved_detector(how, model, saved, squashing_folder, squashing, photo, tmp_path):
    if how == "loaded":
        place = squashing
    else:
        place = shutil.copytree(squashing_folder, tmp_path / "moved")
        place = str(place) if how == "folder" else place
    assert same(MaskFrozenDetr.from_pretrained(saved, place).predict(photo, THRESHOLD), model.predict(photo, THRESHOLD))


def test_a_detector_that_is_gone(run):
    content = json.loads((run / CONFIG_FILE).read_text())
    content["detector"]["name"] = str(run / "nowhere")
    content["detector_place"] = {"absolute": str(run / "nowhere"), "relative": "nowhere"}
    (run / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"nowhere' cannot be loaded; name its place with --detector"):
        MaskFrozenDetr.from_pretrained(run)


def test_a_detector_with_other_weights(saved, tmp_path):
    other = build_squashing_detector(tmp_path / "other", seed=1)
    for place in (other, load_detector(str(other))):
        with pytest.raises(
            UserError, match=r"belongs to detector .*squashing.*has other weights.*masks would be wrong"
        ):
            MaskFrozenDetr.from_pretrained(saved, place)


def test_the_maps_of_another_encoder_layer(padding_folder, tiny_network, tmp_path, photo):
    first = load_detector(str(padding_folder), encoder_layer=1)
    model = MaskFrozenDetr.build(first, tiny_network)
    scatter_parameters(model.network)
    model.save_pretrained(tmp_path / "run")
    again = MaskFrozenDetr.from_pretrained(tmp_path / "run")
    assert same(again.predict(photo, THRESHOLD), model.predict(photo, THRESHOLD))
    with pytest.raises(UserError, match="trained on the maps of encoder layer 1, found those of layer 2"):
        MaskFrozenDetr.from_pretrained(tmp_path / "run", load_detector(str(padding_folder)))


# --- damage ---


DAMAGE = {
    "weights gone": (WEIGHTS_FILE, lambda path: path.unlink(), "weights are missing"),
    "weights cut short": (
        WEIGHTS_FILE,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "are damaged: the file is not what was written",
    ),
    "weights empty": (WEIGHTS_FILE, lambda path: path.write_bytes(b""), "cannot be read"),
    "weights of another network": (
        WEIGHTS_FILE,
        lambda path: save_file({"x": torch.zeros(1)}, path),
        "of another mask network",
    ),
    "no JSON": (CONFIG_FILE, lambda path: path.write_text("{"), "is damaged"),
    "not text": (CONFIG_FILE, lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "a list": (CONFIG_FILE, lambda path: path.write_text("[]"), "is damaged"),
    "empty": (CONFIG_FILE, lambda path: path.write_text("{}"), "is damaged"),
    "format is text": (CONFIG_FILE, lambda path: change(path, format="one"), "is damaged"),
    "format of the future": (CONFIG_FILE, lambda path: change(path, format=99), "newer version"),
    "no detector": (CONFIG_FILE, lambda path: change(path, detector=None), "is damaged"),
    "a detector's field is missing": (CONFIG_FILE, lambda path: change(path, detector={"name": "x"}), "is damaged"),
    "no shapes": (CONFIG_FILE, lambda path: change(path, shapes=[]), "is damaged"),
    "unknown option": (CONFIG_FILE, lambda path: change(path, network={"depth": 3}), "is damaged"),
    "impossible option": (CONFIG_FILE, lambda path: change(path, network={"roi_size": 30}), "is damaged.*roi_size"),
}


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs(damage, run, squashing):
    name, spoil, words = DAMAGE[damage]
    spoil(run / name)
    with pytest.raises(UserError, match=words) as error:
        MaskFrozenDetr.from_pretrained(run, squashing)
    assert str(run / name) in str(error.value)


@pytest.mark.parametrize("kind", ["a detector", "an empty folder", "a file", "nothing"])
def test_what_is_no_run(kind, squashing_folder, tmp_path):
    place = {
        "a detector": squashing_folder,
        "an empty folder": tmp_path,
        "a file": squashing_folder / "config.json",
        "nothing": tmp_path / "nowhere",
    }[kind]
    with pytest.raises(UserError, match=rf"{place}: no {CONFIG_FILE} in it, expected a run folder"):
        MaskFrozenDetr.from_pretrained(place)


def test_parts_that_do_not_fit_the_detector(squashing, monkeypatch):
    monkeypatch.setattr(squashing, "_shapes", DetectorShapes(24, (16, 16, 16), (8, 16, 32), 8, 3))
    with pytest.raises(UserError, match=r"squashing: .*queries have width 24, its features 16"):
        MaskFrozenDetr.training_free(squashing)


def test_nothing_is_written_where_nothing_may_be(model, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "a file"


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


def test_detections_an_image_are_those_of_the_training(model, saved, run, photo):
    """Stored with the run; older runs have it only where they say how they were trained."""
    assert MaskFrozenDetr.from_pretrained(saved).max_detections == 100
    change(run / CONFIG_FILE, max_detections=7)
    assert len(MaskFrozenDetr.from_pretrained(run).predict(photo, 0.0)) == 7
    assert len(MaskFrozenDetr.from_pretrained(run).predict(photo, 0.0, max_detections=9)) == 9
    content = json.loads((run / CONFIG_FILE).read_text())
    del content["max_detections"]
    (run / CONFIG_FILE).write_text(json.dumps(content))
    (run / "training.json").write_text(json.dumps({"max_detections": 5}))
    assert len(MaskFrozenDetr.from_pretrained(run).predict(photo, 0.0)) == 5
    (run / "training.json").write_text("{")
    assert MaskFrozenDetr.from_pretrained(run).max_detections == 100
    change(run / CONFIG_FILE, max_detections="many")
    with pytest.raises(UserError, match=r"is damaged.*max_detections is 'many'"):
        MaskFrozenDetr.from_pretrained(run)


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
    plain = MaskFrozenDetr.build(squashing, MaskNetworkConfig(**{**vars(tiny_network), "mask_scoring": False}))
    scatter_parameters(plain.network)
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


# --- padded batches ---


def cut(detections: Detections, b: int, sizes: list[tuple[int, int]], strides: tuple[int, ...]) -> Detections:
    """What the detector found in image b of a padded batch, as of the image alone."""
    height, width = sizes[b]

    def part(level: torch.Tensor, stride: int) -> torch.Tensor:
        return level[b : b + 1, :, : height // stride, : width // stride]

    return Detections(
        detections.queries[b : b + 1],
        detections.logits[b : b + 1],
        detections.boxes[b : b + 1],
        [part(level, stride) for level, stride in zip(detections.features, strides, strict=True)],
        None if detections.stem is None else part(detections.stem, 4),
    )


def test_an_image_in_a_padded_batch_is_the_image_alone(padding, tiny_network):
    """The mask network, on what one and the same detector run has found: padding reaches no mask."""
    model = MaskFrozenDetr.build(padding, tiny_network)
    scatter_parameters(model.network)
    generator = torch.Generator().manual_seed(0)
    sizes = [(128, 192), (192, 128)]
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    pixel_values, pixel_mask = collate_images(images)
    assert pixel_values.shape == (2, 3, 192, 192)
    detections = padding(pixel_values, pixel_mask)
    queries = torch.arange(15)
    together = model.network(detections, pixel_mask, torch.arange(2).repeat_interleave(15), queries.repeat(2))
    for b, (height, width) in enumerate(sizes):
        alone = model.network(
            cut(detections, b, sizes, padding.shapes.strides),
            torch.ones(1, height, width, dtype=torch.long),
            torch.zeros(15, dtype=torch.long),
            queries,
        )
        part = slice(15 * b, 15 * (b + 1))
        torch.testing.assert_close(together.logits[part], alone.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.iou[part], alone.iou, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.frames[part], alone.frames)


class Pools(FrozenDetector):
    """Its maps are the image's own pixels, averaged: what padding must not touch is there to see."""

    def __init__(self):
        preprocessing = ShortestEdge(64, 128)
        super().__init__(
            torch.nn.Linear(1, 1),
            DetectorInfo(Identity("pools", None, "0", "none"), ["disc", "ring", "star"], preprocessing),
        )

    def save(self, folder: Path) -> None:
        raise AssertionError("nothing here is fine-tuned")

    def detect(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None, targets=None) -> Detections:
        generator = torch.Generator().manual_seed(0)
        B, Q = len(pixel_values), 6
        wide = pixel_values.repeat(1, 6, 1, 1)[:, :16] * torch.linspace(-1, 1, 16)[:, None, None]
        boxes = torch.cat(
            [torch.rand(1, Q, 2, generator=generator), 0.1 + torch.rand(1, Q, 2, generator=generator)], -1
        )
        return Detections(
            torch.randn(1, Q, 16, generator=generator).expand(B, -1, -1),
            torch.randn(1, Q, 3, generator=generator).expand(B, -1, -1),
            boxes.expand(B, -1, -1),
            [F.avg_pool2d(wide, stride) for stride in (8, 16, 32)],
            F.avg_pool2d(wide, 4)[:, :8],
        )


def test_full_resolution_masks_of_a_padded_batch(tiny_network):
    """All the way to the pixels of images of other sizes than the network's input."""
    detector = Pools()
    model = MaskFrozenDetr.build(detector, tiny_network)
    scatter_parameters(model.network)
    rng = np.random.default_rng(0)
    # Inputs of 64 × 96, 96 × 64 and 64 × 64: strides divide them, so that no cell is half an image's and half padding.
    sizes = [(80, 120), (144, 96), (50, 50)]
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    tensors = [detector.info.preprocessing(image) for image in images]
    assert [tuple(tensor.shape[1:]) for tensor in tensors] == [(64, 96), (96, 64), (64, 64)]
    together = segment(detector, model.network.eval(), *collate_images(tensors), sizes, 18)
    for image, size, found in zip(images, sizes, together, strict=True):
        alone = model.predict(image, 0.0)
        assert len(alone) == len(found) == 18
        assert (found.height, found.width) == size
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-4)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
        assert 0.02 < alone.masks.mean() < 0.98
        assert (found.masks != alone.masks).mean() < 1e-3  # a pixel or two at the very threshold may flip


def test_given_boxes_in_a_padded_batch(tiny_network):
    """Boxes of images of several sizes, one of them without any, side by side."""
    detector = Pools()
    model = MaskFrozenDetr.build(detector, tiny_network)
    scatter_parameters(model.network)
    rng = np.random.default_rng(0)
    sizes = [(80, 120), (50, 50), (144, 96)]
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    tensors = [detector.info.preprocessing(image) for image in images]
    boxes = [
        np.array(b, np.float32).reshape(-1, 4) for b in ([[5, 9, 60.5, 70], [0, 0, 120, 80]], [], [[9, 40, 90, 140]])
    ]
    labels = [[0, UNKNOWN], [], [2]]
    together = segment_boxes(detector, model.network.eval(), *collate_images(tensors), sizes, boxes, labels)
    assert [len(found) for found in together] == [2, 0, 1]
    for image, its, names, found in zip(images, boxes, ([0, None], [], [2]), together, strict=True):
        alone = model.predict(image, boxes=its, labels=names)
        assert alone.labels.tolist() == found.labels.tolist()
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
        assert (found.masks != alone.masks).sum() <= 2
