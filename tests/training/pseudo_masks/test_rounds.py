"""Training on masks that it draws itself: from boxes alone, beside true masks, and drawn anew by the network."""

import json
import math
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from folders import read_metrics
from tiny_detectors import NAMES

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.machine.checksums import hash_content
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training.box_masks import MASK_SIDE, box_mask
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.losses import mask_losses
from mask_frozen_detr.training.pseudo_masks.draw import draw_missing
from mask_frozen_detr.training.pseudo_masks.evidence import Evidence
from mask_frozen_detr.training.pseudo_masks.redraw import redraw_missing
from mask_frozen_detr.training.pseudo_masks.rounds import Rounds
from mask_frozen_detr.training.pseudo_masks.soft_cut import soft_cut
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks
from mask_frozen_detr.training.run_folder import read_options
from mask_frozen_detr.training.samples import BESIDE_TRUTH, TrainingData
from mask_frozen_detr.training.state import RunState

CONFIG = TrainConfig(iterations=2, workers=0, log_every=1, min_box_iou=0.0, lr=1e-3, precision="fp32")
FROM_BOXES = replace(CONFIG, masks_from="boxes")
PLAIN = AugmentConfig(flip=False, multi_scale=False, crop=False)


def without_masks(data: CocoData, images: int = 1000) -> CocoData:
    """The same with boxes alone in the first images."""
    bare = [
        replace(record, annotations=tuple(replace(a, segmentation=None) for a in record.annotations))
        for record in data.images[:images]
    ]
    return replace(data, images=[*bare, *data.images[images:]])


def scenes_to_learn_from(data: CocoData) -> list[ImageRecord]:
    """Those with an object that the tiny detectors know."""
    known = {key for key, name in data.categories.items() if name in NAMES.values()}
    return [record for record in data.images if any(a.category_id in known for a in record.annotations)]


def weights(detector, network, data: CocoData, output: Path, config: TrainConfig) -> bytes:
    torch.manual_seed(0)
    train(MaskFrozenDetr.build(detector, network), data, None, output, config, quiet=True)
    return (output / WEIGHTS_FILE).read_bytes()


def test_masks_from_boxes_see_no_mask(squashing, tiny_network, scenes, tmp_path):
    """Whatever masks the annotations hold, the outcome is that of annotations without any."""
    blind = weights(squashing, tiny_network, without_masks(scenes[0]), tmp_path / "blind", FROM_BOXES)
    assert weights(squashing, tiny_network, scenes[0], tmp_path / "seeing", FROM_BOXES) == blind
    assert weights(squashing, tiny_network, scenes[0], tmp_path / "true", CONFIG) != blind


def test_masks_from_boxes_are_learned_in_bf16(squashing, tiny_network, scenes, tmp_path):
    """What a processor that computes in it takes by itself; pseudo-masks are float16, which it does not take."""
    weights(squashing, tiny_network, without_masks(scenes[0]), tmp_path / "run", replace(FROM_BOXES, precision="bf16"))
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert len(losses) == CONFIG.iterations
    assert all(map(math.isfinite, losses))


def test_where_nothing_is_missing_training_is_the_usual(squashing, tiny_network, scenes, tmp_path, capsys):
    where_missing = replace(CONFIG, masks_from="boxes-where-missing")
    torch.manual_seed(0)
    model = MaskFrozenDetr.build(squashing, tiny_network)
    train(model, scenes[0], None, tmp_path / "all", where_missing)
    assert "every object has a mask; trained as usual" in capsys.readouterr().err
    usual = weights(squashing, tiny_network, scenes[0], tmp_path / "usual", CONFIG)
    assert (tmp_path / "all" / WEIGHTS_FILE).read_bytes() == usual
    assert model.supervision is None


def test_a_run_says_how_it_was_supervised(squashing, tiny_network, scenes, tmp_path):
    torch.manual_seed(0)
    model = MaskFrozenDetr.build(squashing, tiny_network)
    config = replace(CONFIG, masks_from="boxes-where-missing", rounds=2)
    train(model, without_masks(scenes[0], 4), scenes[1], tmp_path / "run", config, quiet=True)
    loaded = MaskFrozenDetr.from_pretrained(tmp_path / "run", squashing)
    assert loaded.supervision == model.supervision
    assert loaded.supervision is not None
    learned = scenes_to_learn_from(scenes[0])
    counts = [len(record.annotations) * (record in learned) for record in scenes[0].images]
    assert (loaded.supervision.pseudo_masks, loaded.supervision.true_masks) == (sum(counts[:4]), sum(counts[4:]))
    saved = json.loads((tmp_path / "run" / "evaluation-2.json").read_text())
    said = f"{sum(counts[4:])} true masks and {sum(counts[:4])} pseudo-masks made from boxes"
    assert said in saved["supervision"]
    assert said in evaluate(loaded, scenes[1]).table()
    assert said in loaded.card("a name").text()
    assert said in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "pseudo-masks").exists(), "left behind by a finished run"


def test_without_masks_the_way_is_told(squashing, tiny_network, scenes, tmp_path):
    with pytest.raises(UserError, match="--masks-from boxes"):
        weights(squashing, tiny_network, without_masks(scenes[0]), tmp_path / "run", CONFIG)


def test_rounds_need_something_to_draw():
    with pytest.raises(UserError, match="rounds: found 2"):
        replace(CONFIG, rounds=2)
    assert replace(FROM_BOXES, rounds=3).round_ends(100) == [33, 66]
    assert replace(FROM_BOXES, rounds=3).round_ends(2) == [1]


# --- what samples hold ---


@pytest.fixture
def drawn(squashing, scenes, tmp_path) -> TrainingData:
    """The scenes, true masks in all but the first; its masks are a known pattern, certain in one half."""
    data = without_masks(replace(scenes[0], images=scenes_to_learn_from(scenes[0])), 1)
    store = PseudoMasks("boxes-where-missing", tmp_path / "first", tmp_path / "own")
    record = data.images[0]
    pattern = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    pattern[:, : MASK_SIDE // 2] = 255
    pattern[:, MASK_SIDE // 2 :] = np.linspace(0, 255, MASK_SIDE // 2).astype(np.uint8)
    store.write(record, np.stack([pattern] * len(record.annotations)))
    classes = classes_of(data, squashing.info.class_names)
    return TrainingData(data, classes, squashing.info.preprocessing, PLAIN, 0, pseudo_masks=store)


def test_pseudo_masks_are_soft_and_count_less_beside_true_ones(drawn):
    targets = drawn[0, 0].targets
    assert targets.has_mask.all()
    half = MASK_SIDE // 2
    assert (targets.masks[:, :, :half] == 1).all()
    ramp = torch.linspace(0, 255, half).to(torch.uint8).float() / 255
    assert torch.allclose(
        targets.masks[:, :, half:].float(), ramp.expand(len(targets.labels), MASK_SIDE, -1), atol=1e-3
    )
    sure = (1 + (2 * ramp - 1).abs().mean()) / 2
    assert targets.weights.tolist() == pytest.approx([BESIDE_TRUTH * float(sure)] * len(targets.labels), rel=1e-3)
    true = drawn[1, 1].targets
    assert true.masks.dtype == torch.uint8
    assert (true.weights == 1).all()


def test_a_mirrored_view_mirrors_them(drawn):
    drawn.augment = replace(PLAIN, flip=True)
    plain, mirrored = (
        next(s for s in (drawn[0, n] for n in range(50)) if bool(s.targets.masks[0, 0, MASK_SIDE // 2] == 0) is first)
        for first in (True, False)
    )
    assert torch.equal(plain.targets.masks.flip(-1), mirrored.targets.masks)


def test_weights_scale_losses():
    torch.manual_seed(0)
    logits, masks = torch.randn(3, 8, 8), (torch.rand(3, 16, 16) > 0.5).to(torch.uint8)
    boxes, labels = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 3), torch.zeros(3, dtype=torch.int64)

    def losses(part: slice, weights: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        inputs = (logits[part], None, boxes[part], masks[part], boxes[part], labels[part])
        return mask_losses(*inputs, LossConfig(sampled_points=False), weights=weights)

    both = losses(slice(0, 3), torch.tensor([1.0, 0.25, 0.0]))
    for key in ("bce", "dice"):
        expected = losses(slice(0, 1))[key] + 0.25 * losses(slice(1, 2))[key]
        assert torch.allclose(both[key], expected)


# --- drawn anew ---


def test_the_network_draws_in_the_true_boxes(squashing, tiny_network, scenes, tmp_path, monkeypatch):
    """A network that answers with the truth of its frame is drawn as the truth, mirrored or not, wider or not."""
    data = replace(scenes[0], images=scenes_to_learn_from(scenes[0])[:1])
    classes = classes_of(data, squashing.info.class_names)
    store = PseudoMasks("boxes", tmp_path / "first", tmp_path / "own")
    store.round = 2
    dataset = TrainingData(
        data, classes, squashing.info.preprocessing, replace(PLAIN, flip=True), 0, pseudo_masks=store
    )
    model = MaskFrozenDetr.build(squashing, tiny_network)
    record = data.images[0]
    asked: list[Any] = []

    def truth_of(frame: list[float], flip: bool, annotation) -> torch.Tensor:
        height, width = 96, 96
        x0, y0, x1, y1 = frame
        if flip:
            x0, x1 = width - x1, width - x0
        sx, sy = record.width / width, record.height / height
        box = (x0 * sx, y0 * sy, x1 * sx, y1 * sy)
        mask = box_mask(annotation.segmentation, box, 64, (record.width, record.height)).astype(np.float32)
        return torch.from_numpy((mask[:, ::-1] if flip else mask).copy() * 20 - 10)

    forward = type(model.network).forward

    def answer(self, detections, pixel_mask, images, queries, boxes):
        output = forward(self, detections, pixel_mask, images, queries, boxes)
        pairs = zip(output.frames.tolist(), [*record.annotations, *record.annotations], strict=True)
        output.logits = torch.stack([truth_of(frame, bool(asked), annotation) for frame, annotation in pairs])
        asked.append(boxes)
        return output

    monkeypatch.setattr(type(model.network), "forward", answer)
    redraw_missing(store, model, dataset, None, quiet=True)
    masks = store.read(record)
    for mask, annotation in zip(masks, record.annotations, strict=True):
        x, y, w, h = annotation.bbox
        truth = box_mask(annotation.segmentation, (x, y, x + w, y + h), MASK_SIDE, (record.width, record.height)) > 0
        found = mask > 127
        assert (found & truth).sum() / (found | truth).sum() > 0.85
    assert len(asked) == 2, "the picture and its mirror image"


def test_pixels_and_evidence_are_judged_anew_by_it(squashing, tiny_network, scenes, tmp_path, monkeypatch):
    """A second round's masks are those that pixels, the evidence of the first and the network's chances give."""
    data = replace(scenes[0], images=scenes_to_learn_from(scenes[0])[:2])
    classes = classes_of(data, squashing.info.class_names)
    evidence = Evidence(squashing, classes.index_of)
    store = PseudoMasks("boxes", tmp_path / "first", tmp_path / "own", evidence)
    dataset = TrainingData(data, classes, squashing.info.preprocessing, PLAIN, 0, pseudo_masks=store)
    model = MaskFrozenDetr.build(squashing, tiny_network)
    chances = np.random.default_rng(0).integers(0, 256, (MASK_SIDE, MASK_SIDE), dtype=np.uint8)
    monkeypatch.setattr(
        "mask_frozen_detr.training.pseudo_masks.redraw._masks",
        lambda store, model, dataset, cache, record: np.stack([chances] * len(store.objects(record))),
    )
    draw_missing(store, data.images, workers=0, quiet=True)
    store.round = 2
    redraw_missing(store, model, dataset, None, quiet=True)
    for record in data.images:
        image = open_picture(record, record.orientation)
        told = evidence.of(image, store.objects(record)).astype(np.float16)
        for mask, odds, annotation in zip(store.read(record), told, store.objects(record), strict=True):
            x, y, w, h = annotation.bbox
            assert np.array_equal(mask, soft_cut(image, (x, y, x + w, y + h), odds, chances))


def test_first_masks_that_a_cache_lost_are_drawn_again(squashing, tiny_network, scenes, tmp_path, monkeypatch):
    """A round is drawn with the evidence beside the first masks, wherever these have gone since."""
    config, data = replace(FROM_BOXES, rounds=2), without_masks(scenes[0])
    undisturbed = weights(squashing, tiny_network, data, tmp_path / "one", config)
    draw, lost = Rounds.draw, list[Path]()

    def draw_after_a_loss(rounds: Rounds, run: RunState) -> None:
        store = rounds.dataset.pseudo_masks
        if store is not None and rounds.end_at(run.step):
            lost.extend(store.first.iterdir())
            rmtree(store.first)
        draw(rounds, run)

    monkeypatch.setattr(Rounds, "draw", draw_after_a_loss)
    assert weights(squashing, tiny_network, data, tmp_path / "two", config) == undisturbed
    assert lost


def test_without_evidence_pixels_and_boxes_alone_are_looked_at(squashing, tiny_network, scenes, tmp_path, monkeypatch):
    with_it = weights(squashing, tiny_network, without_masks(scenes[0]), tmp_path / "with", FROM_BOXES)
    monkeypatch.setattr(Evidence, "of", lambda self, image, objects: 1 / 0)
    without = weights(squashing, tiny_network, scenes[0], tmp_path / "run", replace(FROM_BOXES, evidence=False))
    assert with_it != without


def test_an_older_run_goes_on_without_evidence(squashing, tiny_network, scenes, tmp_path):
    """Its masks were drawn from pixels and boxes: its options say so, and others are refused."""
    run = tmp_path / "run"
    stopped = replace(FROM_BOXES, evidence=False)
    weights(squashing, tiny_network, scenes[0], run, stopped)
    described = json.loads((run / "training.json").read_text())
    del described["evidence"], described["checksum"]
    (run / "training.json").write_text(json.dumps({**described, "checksum": hash_content(described)}))
    assert read_options(run)[1].evidence is False
    with pytest.raises(UserError, match="started with evidence False, found True"):
        train(MaskFrozenDetr.build(squashing, tiny_network), scenes[0], None, run, FROM_BOXES, resume=True, quiet=True)
    train(MaskFrozenDetr.build(squashing, tiny_network), scenes[0], None, run, stopped, resume=True, quiet=True)
