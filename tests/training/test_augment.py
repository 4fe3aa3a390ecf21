"""Random views: what is drawn, and that image, boxes and masks go through it together, to a fraction of a pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from narrow import pixels
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.classes import map_classes
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.detectors.preprocessing import Preprocessing
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results.paste import paste_probabilities
from mask_frozen_detr.training.augment import CROP_SIDES, SMALLEST_VIEW, View, draw_view, jitter_colour
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.samples import Sample, TrainingData, collate

TOLERANCE = 0.25  # pixels of the source
PLAIN = AugmentConfig(flip=False, multi_scale=False, crop=False)
W, H = 260, 200
# Lopsided, so that a mask that was not flipped, or is turned, shows.
OBJECT = [60.0, 40.0, 150.0, 55.0, 205.0, 150.0, 120.0, 120.0, 70.0, 170.0]


class Plain(Preprocessing):
    """Pixels as they are: squashed to `side`, or of any size."""

    edges = (800, 1333)

    def __init__(self, side: tuple[int, int] | None = None, edges: tuple[int, int] = (800, 1333)):
        self.side, self.resizes_freely, self.edges = side, side is None, edges

    def __call__(self, image, resize=True):
        if self.side is not None:
            image = image.resize(self.side[::-1], Image.Resampling.BILINEAR)
        elif resize:
            image = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    def probe_size(self):
        return self.side or (64, 64)

    def describe(self):
        return {"kind": "plain"}


def picture(folder: Path) -> Path:
    """The object itself as an image: white on black, drawn as COCO does."""
    mask = coco_mask.decode(coco_mask.frPyObjects([OBJECT], H, W)[0])
    path = folder / "object.png"
    Image.fromarray(np.repeat(mask[..., None] * 255, 3, 2)).save(path)
    return path


def training_data(folder: Path, augment: AugmentConfig, preprocessing: Preprocessing, rle: bool) -> TrainingData:
    xs, ys = OBJECT[0::2], OBJECT[1::2]
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    segmentation = coco_mask.frPyObjects([OBJECT], H, W)[0] if rle else [OBJECT]
    record = ImageRecord(1, picture(folder), W, H, (Annotation(1, 1, box, segmentation, False, 1.0),))
    data = CocoData(folder / "a.json", [record], {1: "thing"}, [])
    return TrainingData(data, map_classes(["thing"], data.categories), preprocessing, augment, 0)


def centroid(mask: np.ndarray) -> np.ndarray:
    """x, y in pixels, weighted."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return np.array([(mask * (x + 0.5)).sum(), (mask * (y + 0.5)).sum()]) / mask.sum()


def shown(sample: Sample) -> np.ndarray:
    """Where the object is in a view, (h, w): brighter than any colour jitter's black."""
    return (pixels(sample)[0].numpy() > 0.5).astype(np.float32)


def scale(data: TrainingData, number: int, sample: Sample) -> float:
    """How many pixels of the sample's image one of the source is, at least."""
    edges = data.preprocessing.edges if data.preprocessing.resizes_freely else None
    view = draw_view(W, H, data.augment, edges, np.random.default_rng([0, number]))
    zoom = view.size[0] / (view.region[2] - view.region[0])
    return min(side / size for side, size in zip(pixels(sample).shape[:0:-1], view.size, strict=True)) * zoom


def pasted(sample: Sample, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """The ground truth back in its view, (h, w)."""
    height, width = pixels(sample).shape[1:]
    cx, cy, w, h = (sample.targets.boxes[0] * torch.tensor([width, height, width, height])).tolist()
    frame = (cx - w / 2 + shift[0], cy - h / 2 + shift[1], cx + w / 2 + shift[0], cy + h / 2 + shift[1])
    return paste_probabilities(sample.targets.masks[0].numpy().astype(np.float32), frame, height, width).full(
        height, width
    )


CASES = {
    "as it is": (PLAIN, Plain()),
    "flip": (replace(PLAIN, flip=True), Plain()),
    "multi-scale": (replace(PLAIN, multi_scale=True), Plain()),
    "crop": (replace(PLAIN, crop=True), Plain()),
    "all": (AugmentConfig(colour_jitter=0.1), Plain()),
    "large-scale jitter": (AugmentConfig(large_scale_jitter=True), Plain()),
    "all, squashed": (AugmentConfig(), Plain((224, 320))),
    "all, of a small detector": (AugmentConfig(), Plain(edges=(320, 533))),
    "large-scale jitter of a small detector": (AugmentConfig(large_scale_jitter=True), Plain(edges=(320, 533))),
}


@pytest.mark.parametrize("rle", [False, True], ids=["polygon", "RLE"])
@pytest.mark.parametrize(("augment", "preprocessing"), CASES.values(), ids=CASES.keys())
def test_boxes_and_masks_stay_on_the_image(augment, preprocessing, rle, tmp_path):
    """Ground truth pasted back into the view covers the object there; half a pixel of the source aside it does not."""
    data = training_data(tmp_path, augment, preprocessing, rle)
    checked = 0
    for number in range(8):
        sample = data[0, number]
        if not len(sample.targets.labels):
            continue  # cropped away
        image = shown(sample)
        found = pasted(sample)
        if image.sum() < 400:  # a remnant of few pixels
            continue
        overlap = np.minimum(found, image).sum() / np.maximum(found, image).sum()
        assert overlap > 0.97
        box = sample.targets.boxes[0]
        assert (box > 0).all()
        assert (box <= 1).all()
        assert np.abs(centroid(found) - centroid(image)).max() < TOLERANCE * scale(data, number, sample)
        checked += 1
    assert checked >= 3


def test_half_a_pixel_would_show(tmp_path):
    """The measure of the test above sees what it is there for."""
    sample = training_data(tmp_path, PLAIN, Plain(), False)[0, 0]  # at twice its size
    image = shown(sample)
    for shift in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)):  # that is, half a pixel of the source
        offset = np.abs(centroid(pasted(sample, shift)) - centroid(image))
        assert offset.max() > TOLERANCE * 2


def test_a_flipped_crop_is_flipped(tmp_path):
    """Box and crop go together: the flipped view's targets are the mirror of the plain one's."""
    data = training_data(tmp_path, replace(PLAIN, flip=True), Plain(), False)
    samples = [data[0, number] for number in range(12)]
    flipped = [s for s in samples if s.targets.boxes[0, 0] != samples[0].targets.boxes[0, 0]]
    assert flipped
    assert len(flipped) < len(samples)
    one, other = flipped[0].targets, samples[0].targets
    assert one.boxes[0, 0].item() == pytest.approx(1 - other.boxes[0, 0].item(), abs=1e-6)
    assert torch.equal(one.boxes[0, 1:], other.boxes[0, 1:])
    assert torch.equal(one.masks, other.masks.flip(2))
    assert not torch.equal(one.masks, other.masks)


# --- what is drawn ---


PAPER = (800, 1333)  # of DETR and most of its kin


def views(
    config: AugmentConfig, edges: tuple[int, int] | None, count: int = 300, size: tuple[int, int] = (640, 480)
) -> list[View]:
    return [draw_view(*size, config, edges, np.random.default_rng([0, number])) for number in range(count)]


def test_half_are_flipped_and_half_cropped():
    drawn = views(AugmentConfig(), PAPER)
    assert 120 < sum(view.flip for view in drawn) < 180
    whole = [view for view in drawn if view.region == (0, 0, 640, 480)]
    assert 120 < len(whole) < 180


def test_sizes_are_those_of_deformable_detr():
    drawn = views(replace(AugmentConfig(), crop=False), PAPER)
    assert {min(view.size) for view in drawn} == {480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800}
    assert all(view.size[0] / view.size[1] == pytest.approx(4 / 3, rel=0.01) for view in drawn)


def test_sizes_follow_the_detectors_own():
    """A detector of 128 … 192 pixels trains at 60 to 100 % of that, as one of 800 … 1333 does."""
    drawn = views(replace(AugmentConfig(), crop=False), (128, 192))
    assert {min(view.size) for view in drawn} == {77, 82, 87, 92, 97, 102, 108, 113, 118, 123, 128}
    assert max(max(view.size) for view in views(AugmentConfig(), (128, 192), size=(900, 300))) == 192
    jittered = views(AugmentConfig(large_scale_jitter=True), (128, 192))
    assert 150 < max(max(view.size) for view in jittered) <= round(1024 * 128 / 800)


@pytest.mark.parametrize("size", [(2000, 100), (100, 2000), (3, 900), (6000, 2), (640, 480), (5000, 4000)])
@pytest.mark.parametrize("edges", [PAPER, (128, 192), None])
@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(large_scale_jitter=True)])
def test_views_of_any_image_are_within_bounds(size, edges, config):
    for view in views(config, edges, 40, size):
        x0, y0, x1, y1 = view.region
        assert 0 <= x0 < x1 <= size[0]
        assert 0 <= y0 < y1 <= size[1]
        assert view.map_box(view.region) == pytest.approx((0, 0, *view.size))
        if edges is None:
            assert view.size == tuple(max(1, round(side)) for side in (x1 - x0, y1 - y0))
        else:  # thinner, a detector's coarsest map would have no cell
            assert min(view.size) >= SMALLEST_VIEW
            assert max(view.size) <= (round(1.28 * edges[0]) if config.large_scale_jitter else edges[1])


def test_crops_have_the_papers_sides():
    """384 to 600 pixels of an image whose shorter side was brought to 400, 500 or 600, if it is as large."""
    for view in views(AugmentConfig(), PAPER):
        x0, y0, x1, y1 = view.region
        if (x0, y0, x1, y1) == (0, 0, 640, 480):
            continue
        fits = [
            all(
                min(CROP_SIDES[0], side * scale / 480) - 1e-6 <= length * scale / 480 <= CROP_SIDES[1] + 1e-6
                for side, length in ((640, x1 - x0), (480, y1 - y0))
            )
            for scale in (400, 500, 600)
        ]
        assert any(fits)


def test_large_scale_jitter_scales_from_a_tenth_to_twice():
    scales = [
        view.size[0] / (view.region[2] - view.region[0]) * 640 / 1024
        for view in views(AugmentConfig(large_scale_jitter=True), PAPER)
    ]
    assert 0.09 < min(scales) < 0.2
    assert 1.85 < max(scales) < 2.01


def test_what_is_off_is_off():
    for edges in (PAPER, None):
        for view in views(PLAIN, edges, 20):
            assert view == View((0, 0, 640, 480), (640, 480), False)
    assert not PLAIN.sets_size  # the detector's own size then
    assert AugmentConfig().sets_size
    assert AugmentConfig(multi_scale=False, large_scale_jitter=True).sets_size


def test_clip_and_map():
    view = View((10.0, 20.0, 110.0, 70.0), (200, 100), flip=True)
    assert view.clip((0, 0, 30, 30)) == (10, 20, 30, 30)
    assert view.clip((200, 0, 300, 30)) is None
    assert view.clip((0, 0, 10, 30)) is None
    assert view.map_box((10, 20, 30, 30)) == pytest.approx((160, 0, 200, 20))


def test_the_jitters_padding_is_padding(tmp_path):
    """Not one pixel of a view is painted: batches pad it, with 0 in the mask, and boxes know nothing of that."""
    data = training_data(tmp_path, AugmentConfig(large_scale_jitter=True, flip=False), Plain(), False)
    samples = sorted((data[0, number] for number in range(12)), key=lambda sample: pixels(sample).shape[2])
    small, large = samples[0], samples[-1]
    batch = collate([small, large])
    height, width = pixels(small).shape[1:]
    assert max(height, width) < 300 < max(pixels(large).shape[1:])
    assert batch.pixel_mask[0].sum() == height * width
    assert batch.pixel_mask[0, :height, :width].all()
    assert not pixels(batch)[0, :, height:].any()
    xs, ys = OBJECT[0::2], OBJECT[1::2]
    expected = [(min(xs) + max(xs)) / 2 / W, (min(ys) + max(ys)) / 2 / H, (max(xs) - min(xs)) / W]
    assert batch.targets[0].boxes[0, :3].tolist() == pytest.approx(expected, abs=1e-6), "of the image, not the window"


def test_jitter_of_scale_is_refused_where_it_would_be_lost(tmp_path):
    with pytest.raises(UserError, match=r"large_scale_jitter: found True, but .* resizes every image itself"):
        training_data(tmp_path, AugmentConfig(large_scale_jitter=True), Plain((64, 64)), False)


def test_colour_jitter():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    same = [jitter_colour(image, 0.4, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert same[0].tobytes() == same[1].tobytes() != same[2].tobytes()
    assert jitter_colour(image, 0.0, np.random.default_rng(1)).tobytes() == image.tobytes()
