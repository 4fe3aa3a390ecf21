"""Every family of the table: detections equal the model's own; the table, and what is not in it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from family_models import NAMES, PROMPT, TINY_MODELS, TinyModel, resnet
from family_parts import picture, random_network
from PIL import Image
from torch import Tensor, nn
from transformers.utils import is_cv2_available

from mask_frozen_detr.cli import main
from mask_frozen_detr.demo.scenes import CLASSES, SCENE_DETECTOR, render_scenes
from mask_frozen_detr.detectors import (
    FAMILIES,
    Family,
    Tokens,
    TransformersDetector,
    format_families,
    load_detector,
    register_detector,
)
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.detectors.transformers_attention import THEIRS, SharedDeformableAttention, share_attention
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.inference import top_detections

DOCS = Path(__file__).parents[2] / "docs" / "detectors.md"


every_model = pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name.replace(" ", "-"))


@pytest.fixture(scope="session")
def originals(family_folder) -> Callable[[TinyModel], transformers.PreTrainedModel]:
    """What transformers itself loads of a tiny model, one for all tests: none of them changes it."""
    made: dict[str, transformers.PreTrainedModel] = {}

    def original(tiny: TinyModel) -> transformers.PreTrainedModel:
        folder = family_folder(tiny)
        if tiny.name not in made:
            made[tiny.name] = tiny.family.load_class().from_pretrained(folder).eval()
        return made[tiny.name]

    return original


# --- what is put into the model ---


@every_model
def test_deformable_attention_is_this_projects(tiny, originals, family_detector):
    """Wherever a family has a module for it; that boxes stay the model's own is tested below."""
    theirs = originals(tiny)
    named = [name for name, module in theirs.named_modules() if type(module).__name__ == THEIRS]
    ours = family_detector(tiny).model
    assert all(isinstance(ours.get_submodule(name), SharedDeformableAttention) for name in named)
    assert hash_weights(ours) == hash_weights(theirs)


@pytest.mark.parametrize("name", ["deformable_detr", "grounding-dino", "rt_detr"])
def test_families_with_an_attention_to_share(name, family_detector):
    """Were the module's name another one day, nothing would be shared."""
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == name)
    modules = list(family_detector(tiny).model.modules())
    assert sum(isinstance(module, SharedDeformableAttention) for module in modules) >= 2


def test_attention_of_another_kind_stays_as_it_is():
    class MultiScaleDeformableAttention(nn.Module):
        def forward(self, value, locations):
            return value

    model = nn.Sequential(MultiScaleDeformableAttention())
    assert share_attention(model) == 0
    assert not isinstance(model[0], SharedDeformableAttention)


# --- what is read off the model ---


@every_model
def test_shapes_are_those_of_the_table(tiny, family_detector):
    shapes, family = family_detector(tiny).shapes, tiny.family
    named = [int(number) for number in re.findall(r"\d+", family.strides)]
    assert min(named) <= shapes.strides[0] <= shapes.strides[-1] <= max(named)
    assert list(shapes.strides) == sorted(shapes.strides)
    if shapes.stem_width is not None:
        named = [int(number) for number in re.findall(r"\d+", family.stem_stride)]
        assert min(named) <= shapes.stem_stride <= max(named)
        assert shapes.stem_stride <= shapes.strides[0]
    else:
        assert family.stem_stride != "4"
    assert shapes.num_classes == (1 if family.prompted else len(NAMES))


@every_model
def test_boxes_scores_and_labels_are_the_models_own(tiny, family_folder, originals, family_detector):
    """The whole way: picture → own pre-processing → instances, against the model's own post-processing."""
    detector, image = family_detector(tiny), picture()
    model = MaskFrozenDetr(detector, random_network(detector))
    kept = tiny.family.detections
    count = kept if isinstance(kept, int) else getattr(detector.model.config, kept)
    found = model.predict(image, score_threshold=0.0, max_detections=count)
    expected = own_detections(tiny, originals(tiny), family_folder(tiny), detector, image)
    ours, theirs = np.argsort(-found.class_scores), np.argsort(-expected["scores"])
    assert len(found) == len(expected["scores"]) >= 10
    assert len(set(found.class_scores.tolist())) > 5
    np.testing.assert_allclose(found.class_scores[ours], expected["scores"][theirs], atol=1e-5)
    np.testing.assert_allclose(found.boxes[ours], expected["boxes"][theirs], atol=1e-2)
    assert [found.names[k] for k in ours] == [expected["names"][k] for k in theirs]


def own_detections(
    tiny: TinyModel, model: Any, folder: Path, detector: TransformersDetector, image: Image.Image
) -> dict:
    """The model called as its documentation says, and its own post-processing without a threshold.

    Images are in the memory format that the detector has them in: convolutions add up in the same order.
    """
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    sizes = [(image.height, image.width)]
    if tiny.family.prompted:
        processor = transformers.GroundingDinoProcessor(processor, transformers.AutoTokenizer.from_pretrained(folder))
        inputs = processor(images=image, text=PROMPT, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            output = model(**inputs)
        # Full stops and the text's two ends name no class.
        named = torch.zeros(output.logits.shape[-1], dtype=torch.bool)
        assert detector.prompt is not None
        named[detector.prompt.tokens] = True
        output.logits[..., ~named] = float("-inf")
        result = processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=sizes)[0]
        names = [detector.info.class_names[k] for k in detector.prompt.owners[output.logits[0, :, named].argmax(-1)]]
    else:
        inputs = processor(images=image, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            output = model(**inputs)
        if tiny.model_type == "pp_doclayout_v3" and not is_cv2_available():
            processor = transformers.PPDocLayoutV2ImageProcessor()  # the same, without polygons
        result = processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)[0]
        names = [model.config.id2label[int(label)] for label in result["labels"]]
    return {"scores": result["scores"].numpy(), "boxes": result["boxes"].numpy(), "names": names}


@every_model
def test_queries_line_up_with_their_logits(tiny, family_detector):
    """Some class head of the model turns the very queries, in their order, into the logits."""
    detector = family_detector(tiny)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_module, args, kwargs, output):
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        seen.append((given[0], output))

    heads = [
        module.register_forward_hook(keep, with_kwargs=True)
        for name, module in detector.model.named_modules()
        if re.search(r"(class_embed|class_labels_classifier)(\.\d+)?$", name) and not isinstance(module, nn.ModuleList)
    ]
    found = detector(*collate_images([detector.info.preprocessing(picture())]))
    for head in heads:
        head.remove()
    norms = [module for module in detector.model.modules() if type(module) is nn.LayerNorm]
    forms = [found.queries, *(n(found.queries) for n in norms if n.normalized_shape == found.queries.shape[-1:])]

    def fits(given: Tensor, logits: Tensor) -> bool:
        if given.shape != found.queries.shape or not any(torch.allclose(given, form, atol=1e-5) for form in forms):
            return False
        difference = found.logits - (logits if detector.prompt is None else detector.prompt.class_logits(logits))
        return bool((difference.amax(-1) - difference.amin(-1) < 1e-4).all())  # D-FINE adds a quality to all classes

    assert found.queries.std(1).mean() > 1e-4  # against the 1e-5 of `fits`
    assert any(fits(given, logits) for given, logits in seen)


# --- the documentation ---


@pytest.mark.slow
def test_the_walk_through_runs(tmp_path, monkeypatch):
    """Fine-tune boxes with transformers' Trainer, freeze, train masks, predict: docs/detectors.md, with fewer steps."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "finetune.py").write_text(next(block for block in blocks if "trainer.train()" in block))
    render_scenes(tmp_path / "scenes", train=6, val=3)
    monkeypatch.chdir(tmp_path)
    arguments = [str(SCENE_DETECTOR), "scenes", "my-detector", "2"]
    subprocess.run([sys.executable, "finetune.py", *arguments], check=True, timeout=280)
    options = ["--output", "runs/mine", "--iterations", "2", "--mask-width", "16", "--roi-size", "8"]
    assert main(["train", "my-detector", "scenes", *options]) == 0
    assert main(["predict", "runs/mine", "scenes/val2017", "--output", "out"]) == 0
    assert (tmp_path / "out" / "predictions.json").exists()
    saved = json.loads((tmp_path / "runs/mine/mask_frozen_detr.json").read_text())
    assert saved["detector"]["weights"] != load_detector(SCENE_DETECTOR).info.identity.weights  # its own weights
    assert saved["class_names"] == list(CLASSES)


# --- the table ---


def test_the_documentation_has_the_table():
    assert format_families(markdown=True) in DOCS.read_text()


def test_the_table_names_every_family():
    lines = format_families().splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(FAMILIES)
    assert lines[-1] == f"Installed: transformers {transformers.__version__}."


def test_a_family_that_is_not_installed_is_named_with_its_version(monkeypatch, family_folder):
    tiny = TinyModel("rt_detr", "rt_detr")
    folder = family_folder(tiny)
    monkeypatch.setitem(FAMILIES, "rt_detr", replace(tiny.family, model_class="RTDetrOfTomorrow", since="99.1"))
    with pytest.raises(UserError, match=r"'rt_detr' needs transformers 99.1 or newer, found 5\.\d+"):
        load_detector(folder)
    line = next(line for line in format_families().splitlines() if line.startswith("rt_detr "))
    assert line.endswith("(not installed)")
    assert load_detector(family_folder(TinyModel("yolos", "yolos"))).info.identity.family == "yolos"


class ForkConfig(transformers.DetrConfig):
    model_type = "my_detr"


class ForkForObjectDetection(transformers.DetrForObjectDetection):
    config_class = ForkConfig


@pytest.fixture
def fork(tmp_path) -> Path:
    """A model that transformers knows and the table does not."""
    transformers.AutoConfig.register("my_detr", ForkConfig, exist_ok=True)
    transformers.AutoModelForObjectDetection.register(ForkConfig, ForkForObjectDetection, exist_ok=True)
    settings: dict[str, Any] = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "num_queries": 7,
        "encoder_ffn_dim": 16,
    }
    settings |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    config = ForkConfig(backbone_config=resnet("ResNetConfig", 4), **settings)
    ForkForObjectDetection(config).save_pretrained(tmp_path)
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path)
    return tmp_path


def test_an_unknown_detr_is_told_which_taps_were_looked_for(fork):
    with pytest.raises(UserError) as refusal:
        load_detector(fork)
    message = str(refusal.value)
    assert "'my_detr' is not in the table, but ForkForObjectDetection looks like a DETR" in message
    assert "model.encoder.layers (found)" in message
    assert "model.input_projection (found)" in message
    assert "model.input_proj (absent)" in message
    assert "model.backbone.model.encoder.stages.0 (found)" in message
    assert "register_detector(Family('my_detr', 'ForkForObjectDetection'" in message


def test_a_registered_detector_loads(fork):
    register_detector(
        Family(
            "my_detr",
            ForkForObjectDetection,
            features=Tokens("model.encoder.layers", "model.input_projection"),
            stems={"resnet": "model.backbone.model.encoder.stages.0"},
            background=True,
            detections="num_queries",
            takes_mask=True,
        )
    )
    try:
        detector = load_detector(fork)
        assert detector.shapes.strides == (32,)
        assert detector.shapes.stem_width == 16
        assert "my_detr" in format_families()
        top = top_detections(
            detector(torch.randn(1, 3, 64, 64), torch.ones(1, 64, 64)).logits, detector.info.score_rule, 7
        )[0]
        assert len(top.scores) == 7
    finally:
        FAMILIES.pop("my_detr")


def test_a_wrong_tap_is_named(family_folder, monkeypatch):
    tiny = TinyModel("detr", "detr")
    wrong = replace(tiny.family, features=Tokens("model.encoder.blocks", "model.input_projection"))
    monkeypatch.setitem(FAMILIES, "detr", wrong)
    with pytest.raises(UserError, match=r"DetrForObjectDetection has no module 'model\.encoder\.blocks'"):
        load_detector(family_folder(tiny))


def test_what_is_no_detector_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its model type is 'bert', expected one of conditional_detr, d_fine"):
        load_detector(tmp_path)


def test_encoder_layers_are_counted_from_one(family_folder):
    with pytest.raises(UserError, match="encoder_layer: found 0, expected 1"):
        load_detector(family_folder(TinyModel("detr", "detr")), encoder_layer=0)
