"""Copy-paste: objects are drawn in colours of their own, so that the picture itself tells whose each pixel is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from folders import read_metrics
from narrow import pixels
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.cli import main
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.results.rle import segmentation_to_rle
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.copy_paste import MOST, SMALLEST_SIDE, choose_objects, paste_objects
from mask_frozen_detr.training.presets import preset
from mask_frozen_detr.training.run_folder import TRAINING_FILE
from mask_frozen_detr.training.samples import TrainingData

W, H = 160, 120
RED, GREEN, BLUE, YELLOW = (220, 0, 0), (0, 220, 0), (0, 0, 220), (220, 220, 0)
GREY = (90, 90, 90)
LEFT = [20.0, 20.0, 80.0, 25.0, 70.0, 100.0, 30.0, 90.0]
RIGHT = [95.0, 10.0, 150.0, 15.0, 140.0, 60.0, 100.0, 55.0]


def record_of(name: str, polygons: list[list[float]], width: int = W, height: int = H) -> ImageRecord:
    annotations = []
    for number, polygon in enumerate(polygons, 1):
        xs, ys = polygon[0::2], polygon[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        annotations.append(Annotation(number, number, box, [polygon], False, 1.0))
    return ImageRecord(1, Path(name), width, height, annotations)


def painted(record: ImageRecord, colours: list[tuple[int, int, int]]) -> Image.Image:
    canvas = np.full((record.height, record.width, 3), GREY, np.uint8)
    for annotation, colour in zip(record.annotations, colours, strict=True):
        canvas[mask_of(annotation, record)] = colour
    return Image.fromarray(canvas)


def mask_of(annotation: Annotation, record: ImageRecord) -> np.ndarray:
    assert annotation.segmentation is not None
    return coco_mask.decode(segmentation_to_rle(annotation.segmentation, record.height, record.width)).astype(bool)


def is_of(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.all(np.abs(np.asarray(image, int) - colour) < 40, axis=2)


OWN, DONOR = record_of("own.png", [LEFT, RIGHT]), record_of("donor.png", [LEFT, RIGHT])
OWN_IMAGE, DONOR_IMAGE = painted(OWN, [RED, GREEN]), painted(DONOR, [BLUE, YELLOW])


@pytest.mark.parametrize("seed", range(12))
def test_every_mask_is_what_the_picture_shows_of_its_object(seed):
    donor = replace(DONOR, annotations=[replace(one, category_id=one.category_id + 2) for one in DONOR.annotations])
    rng = np.random.default_rng(seed)
    record, image = paste_objects(OWN, OWN_IMAGE, donor, DONOR_IMAGE, donor.annotations, True, rng)
    assert (record.width, record.height) == image.size == (W, H)
    assert {3, 4} & {one.category_id for one in record.annotations}
    found = {one.category_id: one for one in record.annotations}
    for category, colour in enumerate([RED, GREEN, BLUE, YELLOW], 1):
        shown = is_of(image, colour)
        if category not in found:
            assert shown.sum() < 0.15 * 2500
            continue
        mask = mask_of(found[category], record)
        assert (mask & shown).sum() > 0.9 * max(mask.sum(), shown.sum()) - 40, "but for the mixed pixels of edges"
        ys, xs = np.nonzero(mask)
        x, y, w, h = found[category].bbox
        assert (x, y, x + w, y + h) == pytest.approx((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), abs=2)
    masks = [mask_of(one, record) for one in record.annotations]
    assert np.sum(masks, 0).max() == 1, "no pixel is two objects'"


def test_what_is_untouched_stays_as_it_was():
    small = record_of("small.png", [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]])
    rng = np.random.default_rng(0)
    record, image = paste_objects(OWN, OWN_IMAGE, small, painted(small, [BLUE]), small.annotations, True, rng)
    assert image is not OWN_IMAGE
    blue = np.asarray(image, int) != np.asarray(OWN_IMAGE, int)
    assert 20 < blue.any(2).sum() < 400
    kept = [one for one in record.annotations if isinstance(one.segmentation, list)]
    assert kept == [one for one in OWN.annotations if not (mask_of(one, OWN) & blue.any(2)).any()]
    assert is_of(OWN_IMAGE, BLUE).sum() == 0


def test_who_is_hidden_is_no_object_and_crowds_and_bare_boxes_stay():
    most = record_of("most.png", [[1.0, 1.0, 99.0, 1.0, 99.0, 75.0, 1.0, 75.0]], 100, 76)
    tiny = [[70.0, 55.0, 82.0, 55.0, 82.0, 67.0, 70.0, 67.0]]
    own = record_of("own.png", tiny * 3)
    hidden, bare, crowd = own.annotations
    own = replace(own, annotations=[hidden, replace(bare, segmentation=None), replace(crowd, iscrowd=True)])
    gone = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        record, image = paste_objects(own, OWN_IMAGE, most, painted(most, [BLUE]), most.annotations, False, rng)
        assert own.annotations[1] in record.annotations
        assert own.annotations[2] in record.annotations
        covered = is_of(image, BLUE)[56:66, 71:81].mean()
        if covered > 0.99:
            gone += 1
            assert len(record.annotations) == 3
    assert gone > 3


@pytest.mark.parametrize("flip", [False, True])
def test_left_and_right_are_kept_where_they_matter(flip):
    both = record_of("both.png", [[40.0, 30.0, 100.0, 30.0, 100.0, 90.0, 40.0, 90.0]])
    canvas = np.asarray(painted(both, [BLUE])).copy()
    canvas[:, 70:][is_of(Image.fromarray(canvas), BLUE)[:, 70:]] = YELLOW
    plain = replace(OWN, annotations=[])
    blank = Image.new("RGB", (W, H), GREY)
    left = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, image = paste_objects(plain, blank, both, Image.fromarray(canvas), both.annotations, flip, rng)
        blue, yellow = (np.nonzero(is_of(image, colour))[1].mean() for colour in (BLUE, YELLOW))
        left += blue < yellow
    assert left == 20 if not flip else 3 < left < 17


def test_what_does_not_fit_is_left_out():
    wide = record_of("wide.png", [[0.0, 0.0, 400.0, 0.0, 400.0, 20.0, 0.0, 20.0]], 400, 20)
    own = replace(OWN, width=20, height=20, annotations=[])
    image = Image.new("RGB", (20, 20), GREY)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        record, same = paste_objects(own, image, wide, painted(wide, [BLUE]), wide.annotations, True, rng)
        assert same is image or max(record.annotations[0].bbox[2:]) < 20


def test_which_objects_are_chosen():
    good = DONOR.annotations[0]
    unfit = [
        replace(good, segmentation=None),
        replace(good, iscrowd=True),
        replace(good, category_id=9),
        replace(good, bbox=(0.0, 0.0, SMALLEST_SIDE, 50.0)),
    ]
    rng = np.random.default_rng(0)
    assert not any(choose_objects(replace(DONOR, annotations=unfit), {1, 2}, rng) for _ in range(20))
    some = replace(DONOR, annotations=[good] * 6)
    counts = [len(choose_objects(some, {1, 2}, rng)) for _ in range(200)]
    assert np.mean(counts) == pytest.approx(3, abs=0.4)
    assert len(choose_objects(replace(DONOR, annotations=[good] * 200), {1, 2}, rng)) == MOST


# Of a training


@pytest.fixture
def pair(tmp_path, squashing) -> TrainingData:
    """Two images of two objects each, which is all that there is to paste."""
    names = [name for name in squashing.info.class_names if name][:2]
    records = []
    for number, (record, image) in enumerate([(OWN, OWN_IMAGE), (DONOR, DONOR_IMAGE)]):
        path = tmp_path / f"{number}.png"
        image.save(path)
        records.append(replace(record, id=number, path=path))
    data = CocoData(tmp_path / "a.json", records, dict(enumerate(names, 1)), [])
    return training_data(squashing, data, AugmentConfig(flip=False, crop=False, copy_paste=1.0))


def training_data(detector, data: CocoData, augment: AugmentConfig) -> TrainingData:
    return TrainingData(data, classes_of(data, detector.info.class_names), detector.info.preprocessing, augment, 0)


def test_a_sample_is_a_composite_and_its_targets_are_its_objects(pair):
    counts = [len(pair[0, number].targets.labels) for number in range(40)]
    assert set(counts) >= {2, 3, 4}
    assert counts.count(2) < 35, "half of the time the other image is drawn, and some object of it mostly"
    plain = pair.preprocessing(OWN_IMAGE)
    changed = [not np.array_equal(pixels(pair[0, number]), plain) for number in range(40)]
    assert all(one or count <= 2 for one, count in zip(changed, counts, strict=True))


def test_an_image_that_cannot_be_read_lends_nothing(pair):
    pair.images[1].path.write_text("no image")
    samples = [pair[0, number] for number in range(12)]
    assert {len(sample.targets.labels) for sample in samples} == {2}
    assert not any(sample.problem for sample in samples)
    assert pair[1, 0].problem


def test_no_masks_that_training_draws_are_cut_out(squashing_folder, few_scenes_folder, tmp_path):
    """Nor with a cache; of either the run folder says that nothing was pasted."""
    command = ["train", str(squashing_folder), str(few_scenes_folder), *TINY, "--copy-paste", "1", "--output"]
    for name, more, expected in (
        ("pasted", [], 1.0),
        ("boxes", ["--masks-from", "boxes", "--no-evidence"], 0.0),
        ("cached", ["--cache", str(tmp_path / "cache")], 0.0),
    ):
        assert main([*command, str(tmp_path / name), *more]) == 0
        assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path / name) if "loss" in line)
        assert f'"copy_paste": {expected}' in (tmp_path / name / TRAINING_FILE).read_text()


def test_best_pastes_and_the_others_do_not():
    assert preset("best", 343)[1].augment.copy_paste == 0.5
    assert not any(preset(name, 343)[1].augment.copy_paste for name in ("light", "balanced", "paper"))
