"""`pipeline("image-segmentation")` of transformers beside `MaskFrozenDetr.predict`, on tiny detectors."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_detections import scattered

import mask_frozen_detr
from mask_frozen_detr import Instances, MaskFrozenDetr, MaskNetworkConfig, UserError
from mask_frozen_detr.detectors.described import described_preprocessing
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.results import inference
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES

THRESHOLD = 0.02


def save(detector, config: MaskNetworkConfig, folder: Path) -> MaskFrozenDetr:
    model = scattered(detector, config)
    model.save_pretrained(folder)
    return model


def as_label_map(instances: Instances, least_share: float) -> list[tuple[int, float, np.ndarray]]:
    """Literally: full masks, best first, each takes the pixels that no better one has."""
    free = np.ones((instances.height, instances.width), bool)
    kept = []
    for mask, label, score in zip(instances.masks, instances.labels, instances.scores, strict=True):
        left = mask & free
        if left.any() and left.sum() >= least_share * mask.sum():
            kept.append((int(label), float(score), left))
            free &= ~left
    return kept


@pytest.mark.parametrize("kind", ["squashing", "padding"])
@pytest.mark.parametrize("scoring", [True, False])
def test_the_pipeline_finds_what_predict_finds(kind, scoring, request, photo, tmp_path):
    from transformers import pipeline

    network = MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8, mask_scoring=scoring)
    model = save(request.getfixturevalue(kind), network, tmp_path / "run")
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "run"))
    found = segmenter(str(photo), threshold=THRESHOLD, overlap_mask_area_threshold=0.5)
    expected = as_label_map(model.predict(photo, THRESHOLD), 0.5)
    assert len(expected) > 2
    assert [segment["label"] for segment in found] == [model.class_names[label] for label, _, _ in expected]
    np.testing.assert_allclose([segment["score"] for segment in found], [score for _, score, _ in expected], atol=1e-5)
    for segment, (_, _, mask) in zip(found, expected, strict=True):
        assert np.array_equal(np.array(segment["mask"]) > 0, mask)


def test_pictures_of_several_sizes_in_one_batch(padding, tiny_network, photo, tmp_path):
    """One of them is padded: masks land where `segment` puts them, which takes the same batch."""
    from transformers import AutoImageProcessor, AutoModelForImageSegmentation

    model = save(padding, tiny_network, tmp_path / "run")
    loaded = AutoModelForImageSegmentation.from_pretrained(tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    whole = Image.open(photo).convert("RGB")
    pictures = [whole, whole.crop((0, 0, whole.width // 2, whole.height))]
    inputs = processor(pictures)
    outputs = loaded(**inputs)
    assert {"logits", "pred_boxes", "pred_masks"} <= set(outputs)
    assert outputs.pred_boxes.shape == (2, 15, 4)
    assert outputs.pred_masks.shape == (2, 15, 8, 8)
    sizes = [(picture.height, picture.width) for picture in pictures]
    maps = processor.post_process_instance_segmentation(outputs, THRESHOLD, target_sizes=sizes)
    batch = inference.segment(
        model.detector, model.network, inputs["pixel_values"], inputs["pixel_mask"], sizes, 100, THRESHOLD
    )
    for size, found, instances in zip(sizes, maps, batch, strict=True):
        expected = np.zeros(size, np.int32)
        for number, (_, _, mask) in enumerate(as_label_map(instances.above(THRESHOLD), 0.5), 1):
            expected[mask] = number
        assert expected.any()
        assert np.array_equal(found["segmentation"].numpy(), expected)


def test_nothing_above_the_threshold(squashing, tiny_network, photo, tmp_path):
    from transformers import pipeline

    save(squashing, tiny_network, tmp_path / "run")
    segmenter = pipeline("image-segmentation", model=str(tmp_path / "run"))
    assert segmenter(str(photo), threshold=1.0) == []
    both = segmenter([str(photo)] * 2, threshold=THRESHOLD, batch_size=2)
    assert [len(found) for found in both] == [len(both[0])] * 2


def test_half_precision_is_refused_with_the_way_to_it(squashing, tiny_network, tmp_path):
    from transformers import AutoModelForImageSegmentation

    save(squashing, tiny_network, tmp_path / "run")
    with pytest.raises(UserError, match=r"found torch.float16, expected float32.*torch.autocast"):
        AutoModelForImageSegmentation.from_pretrained(tmp_path / "run", dtype=torch.float16)


def test_a_detectors_own_folder_keeps_its_files(squashing_folder, squashing, tiny_network, tmp_path):
    """Both have a config.json: a run saved into the wrong folder must not spoil a detector."""
    before = {path.name: path.read_bytes() for path in squashing_folder.iterdir()}
    model = MaskFrozenDetr.build(squashing, tiny_network)
    with pytest.raises(UserError, match=r"config.json: is of another model \(model_type 'rt_detr'\)"):
        model.save_pretrained(squashing_folder)
    assert {path.name: path.read_bytes() for path in squashing_folder.iterdir()} == before
    (tmp_path / "config.json").write_text("not JSON")
    with pytest.raises(UserError, match=r"config.json: is of another model"):
        model.save_pretrained(tmp_path)


def test_registered_when_the_pipelines_are_imported(squashing, tiny_network, tmp_path):
    """In a process of its own: this package alone loads neither torch nor transformers."""
    save(squashing, tiny_network, tmp_path / "run")
    program = f"""
import sys
import mask_frozen_detr
assert not {{"torch", "transformers"}} & set(sys.modules)
from transformers import AutoConfig, pipeline
print(type(AutoConfig.from_pretrained({str(tmp_path / "run")!r})).__name__, end="")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "MaskFrozenDetrConfig"), done.stderr


def test_a_registration_that_fails_leaves_transformers_alone(monkeypatch):
    from mask_frozen_detr import pipeline
    from mask_frozen_detr.pipeline import registration

    def fail() -> None:
        raise ImportError("another transformers")

    monkeypatch.setattr(pipeline, "register", fail)
    with pytest.warns(UserWarning, match="cannot load runs: another transformers"):
        registration.await_transformers()
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registration.await_transformers()


def test_what_transformers_must_know_is_in_two_files(squashing, tiny_network, tmp_path):
    save(squashing, tiny_network, tmp_path)
    config, processor = (json.loads((tmp_path / name).read_text()) for name in TRANSFORMERS_FILES)
    assert config["id2label"] == {"0": "disc", "1": "ring", "2": "star"}
    assert processor["score_rule"]["kind"] == "sigmoid"
    assert mask_frozen_detr.MaskFrozenDetr.from_pretrained(tmp_path).max_detections == processor["max_detections"]


def test_the_paper_detectors_pre_processing_is_made_again():
    image = Image.fromarray(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3))
    kind = ShortestEdge(48, 80, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    again = described_preprocessing(json.loads(json.dumps(kind.describe())))
    assert torch.equal(again(image), kind(image))


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"kind": "my own"}, "expected an image processor of transformers"),
        ({"image_processor_type": "AutoModel"}, "found 'AutoModel', expected an image processor"),
        ({"image_processor_type": "DetrImageProcessor", "size": "large"}, "cannot be made again"),
    ],
)
def test_a_pre_processing_that_cannot_be_made_again(described, words):
    with pytest.raises(UserError, match=words):
        described_preprocessing(described)
