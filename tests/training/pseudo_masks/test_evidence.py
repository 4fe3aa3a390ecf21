"""What a frozen detector tells of the objects in given boxes: of every family, and of one whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from family_parts import one_of_each_kind, picture
from official_samples import random_model, small_deformable, small_dino, write_checkpoint
from PIL import Image, ImageDraw
from torch import nn

from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.detectors.base import Detections, DetectorInfo, FrozenDetector, ScoreRule
from mask_frozen_detr.detectors.identity import Identity
from mask_frozen_detr.detectors.preprocessing import Preprocessing, ShortestEdge
from mask_frozen_detr.training.pseudo_masks.evidence import SIDE, Evidence
from mask_frozen_detr.training.pseudo_masks.soft_cut import soft_cut


def an_object(box: tuple[float, float, float, float], category_id: int = 1) -> Annotation:
    x0, y0, x1, y1 = box
    return Annotation(0, category_id, (x0, y0, x1 - x0, y1 - y0), None, False, (x1 - x0) * (y1 - y0))


class Squashing(Preprocessing):
    """128 × 128, values in [0, 1]."""

    resizes_freely = False

    def __call__(self, image: Image.Image, resize: bool = True) -> torch.Tensor:
        pixels = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR), np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def probe_size(self) -> tuple[int, int]:
        return 128, 128

    def describe(self) -> dict:
        return {"kind": "128"}


class RedCounter(FrozenDetector):
    """The first class's logit is the sum of red over all cells, the second's that of green."""

    with_stem = True

    def __init__(self, preprocessing: Preprocessing, rule: ScoreRule):
        identity = Identity("counter", None, "0", "counter")
        super().__init__(nn.Linear(1, 1), DetectorInfo(identity, ["red", "green"], preprocessing, score_rule=rule))

    def detect(self, pixel_values, pixel_mask, targets=None) -> Detections:
        maps = F.avg_pool2d(pixel_values, 4)
        seen = torch.stack([maps[:, 0].sum((1, 2)), maps[:, 1].sum((1, 2)), 0 * maps[:, 2].sum((1, 2))], 1)
        logits = seen[:, None, : 3 if self.info.score_rule.kind == "softmax" else 2].expand(-1, 5, -1)
        boxes = torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(len(maps), 5, 4)
        queries = torch.zeros(len(maps), 5, 8)
        return Detections(queries, logits, boxes, [maps], maps if self.with_stem else None)

    def save(self, folder) -> None:
        raise NotImplementedError


def scene(size: tuple[int, int], red: tuple[int, int, int, int], green: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, "black")
    draw = ImageDraw.Draw(image)
    draw.rectangle(red, fill=(255, 0, 0))
    draw.rectangle(green, fill=(0, 255, 0))
    return image


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("preprocessing", [Squashing(), ShortestEdge(mean=(0, 0, 0), std=(1, 1, 1))])
@pytest.mark.parametrize("with_stem", [True, False])
def test_what_the_score_comes_from_is_told(preprocessing, kind, with_stem):
    """Half of the box is red and a quarter green: each is the evidence of its own class, and of that alone."""
    detector = RedCounter(preprocessing, ScoreRule(kind))
    detector.with_stem = with_stem
    box = (40.0, 30.0, 120.0, 110.0)
    image = scene((300, 200), (40, 30, 79, 109), (80, 70, 119, 109))
    told = Evidence(detector, {1: 0, 2: 1}).of(image, [an_object(box, 1), an_object(box, 2)])
    assert told.shape == (2, SIDE, SIDE)
    assert np.allclose(told.mean((1, 2)), 0, atol=1e-4)
    assert np.allclose(told.std((1, 2), ddof=1), 1, atol=1e-3)
    half, edge = SIDE // 2, 3  # what is told is a little blurred
    red, green = told
    assert red[:, : half - edge].min() > red[:, half + edge :].max()
    assert red[:, : half - edge].mean() > 0.5 > red[: half - edge, half + edge :].mean()
    assert green[half + edge :, half + edge :].mean() > 0.5 > green[: half - edge].mean()


def test_small_boxes_and_those_at_borders():
    detector = RedCounter(Squashing(), ScoreRule())
    image = scene((64, 48), (0, 0, 15, 47), (60, 40, 63, 47))
    boxes = [(-5.0, -5.0, 20.0, 60.0), (60.2, 40.1, 60.9, 40.8), (0.0, 0.0, 64.0, 48.0), (63.5, 47.5, 64.0, 48.0)]
    told = Evidence(detector, {1: 0}).of(image, [an_object(box) for box in boxes])
    assert np.isfinite(told).all()
    assert told[0][:, :10].mean() > told[0][:, -4:].mean()


def test_nothing_is_told_where_no_cell_counts():
    detector = RedCounter(Squashing(), ScoreRule())
    told = Evidence(detector, {1: 0}).of(Image.new("RGB", (64, 48)), [an_object((10.0, 10.0, 40.0, 40.0))])
    assert not told.any()
    assert Evidence(detector, {1: 0}).of(Image.new("RGB", (64, 48)), []).shape == (0, SIDE, SIDE)


def test_a_class_that_the_detector_lacks_is_its_best_guess():
    detector = RedCounter(Squashing(), ScoreRule())
    image = scene((300, 200), (40, 30, 79, 109), (80, 70, 119, 109))
    box = (40.0, 30.0, 120.0, 110.0)
    best, unknown = Evidence(detector, {1: 0}).of(image, [an_object(box, 1), an_object(box, 7)])
    assert np.array_equal(best, unknown)


@one_of_each_kind
def test_every_family_tells_something(tiny, family_detector):
    """The gradient reaches the map, and nothing of the detector is changed or left to learn."""
    detector = family_detector(tiny)
    before = detector.hash_checkpoint()
    objects = [an_object((10.0, 8.0, 70.0, 60.0)), an_object((50.0, 20.0, 110.0, 78.0), 99)]
    told = Evidence(detector, {1: 0}).of(picture(), objects)
    assert np.isfinite(told).all()
    assert (told.std((1, 2)) > 0.9).all()
    assert detector.hash_checkpoint() == before
    assert all(parameter.grad is None for parameter in detector.parameters())


@pytest.mark.parametrize("build", [small_dino, small_deformable])
def test_official_checkpoints_tell_something(build, tmp_path):
    detector = load_detector(write_checkpoint(random_model(build("resnet")), tmp_path / "file.pth"))
    told = Evidence(detector, {1: 0}).of(picture(), [an_object((10.0, 8.0, 70.0, 60.0))] * 2)
    assert np.isfinite(told).all()
    assert (told.std((1, 2)) > 0.9).all()
    assert np.allclose(told, told[:1], atol=0.05), "the same object, told of otherwise beside others"


# --- masks that follow it ---


def test_evidence_parts_what_colours_do_not():
    """Object and ground of one colour: the mask is where the evidence is."""
    image = Image.new("RGB", (100, 100), "grey")
    odds = np.full((SIDE, SIDE), -2.0, np.float16)
    odds[:, : SIDE // 2] = 2.0
    mask = soft_cut(image, (20, 20, 80, 80), odds) > 127
    assert mask[:, :46].mean() > 0.8
    assert mask[:, 66:].mean() < 0.2


def test_a_drawn_mask_takes_the_place_of_the_guess():
    """Without one the middle is likelier; a network that drew a frame along the box's sides is followed instead."""
    image = Image.new("RGB", (100, 100), "grey")
    drawn = np.full((112, 112), 230, np.uint8)
    drawn[30:82, 30:82] = 25
    mask = soft_cut(image, (20, 20, 80, 80), drawn=drawn)
    assert mask[56, 56] < 100 < 150 < mask[56, 8]
    assert soft_cut(image, (20, 20, 80, 80))[56, 56] > 127
