"""Every family of the table: detections equal the model's own, masks learn, padding and reloading change nothing."""

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
from family_models import NAMES, PROMPT, TINY_MODELS, TinyModel, installed, resnet
from family_scenes import blinker, draw_scenes, overfit
from PIL import Image
from synthetic_detections import all_queries, scatter_parameters
from torch import Tensor, nn
from transformers.utils import is_cv2_available

from mask_frozen_detr.cli import main
from mask_frozen_detr.demo.scenes import CLASSES, SCENE_DETECTOR, render_scenes
from mask_frozen_detr.detectors import (
    FAMILIES,
    Detections,
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
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig
from mask_frozen_detr.results.inference import top_detections

CONFIG = MaskNetworkConfig(mask_width=16, roi_size=8, image_layers=1, box_layers=1)
DOCS = Path(__file__).parents[2] / "docs" / "detectors.md"

every_model = pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name.replace(" ", "-"))
# What is the same code for every family is tested on one of each kind; on all of them by `make test-slow`.
OF_EACH_KIND = {"detr", "deformable_detr", "rt_detr", "d_fine", "deimv2", "rf_detr", "grounding-dino"}
one_of_each_kind = pytest.mark.parametrize(
    "tiny",
    [pytest.param(tiny, marks=[] if tiny.name in OF_EACH_KIND else pytest.mark.slow) for tiny in TINY_MODELS],
    ids=lambda tiny: tiny.name.replace(" ", "-"),
)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TinyModel], Path]:
    """Where a tiny model lies, as transformers saves it."""
    made: dict[str, Path] = {}

    def folder(tiny: TinyModel) -> Path:
        if not installed(tiny):
            pytest.skip(f"needs transformers {tiny.family.since}")
        if tiny.name not in made:
            made[tiny.name] = tiny.save(tmp_path_factory.mktemp("tiny") / tiny.name)
        return made[tiny.name]

    return folder


@pytest.fixture(scope="session")
def detectors(folders) -> Callable[[TinyModel], TransformersDetector]:
    """The frozen detector of a tiny model, one for all tests: none of them changes it."""
    made: dict[str, TransformersDetector] = {}

    def detector(tiny: TinyModel) -> TransformersDetector:
        if tiny.name not in made:
            made[tiny.name] = tiny.load(folders(tiny))
        return made[tiny.name]

    return detector


@pytest.fixture(scope="session")
def originals(folders) -> Callable[[TinyModel], transformers.PreTrainedModel]:
    """What transformers itself loads of a tiny model, one for all tests: none of them changes it."""
    made: dict[str, transformers.PreTrainedModel] = {}

    def original(tiny: TinyModel) -> transformers.PreTrainedModel:
        if tiny.name not in made:
            made[tiny.name] = tiny.family.load_class().from_pretrained(folders(tiny)).eval()
        return made[tiny.name]

    return original


def picture(height: int = 80, width: int = 120, seed: int = 0) -> Image.Image:
    """Coloured noise in blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def masks(network: MaskNetwork, detections: Detections, pixel_mask: Tensor) -> Tensor:
    with torch.no_grad():
        return network(detections, pixel_mask, *all_queries(detections)).logits


def random_network(detector: TransformersDetector, config: MaskNetworkConfig = CONFIG) -> MaskNetwork:
    network = MaskNetwork(config, detector.shapes).eval()
    scatter_parameters(network)
    return network


# --- what is put into the model ---


@every_model
def test_deformable_attention_is_this_projects(tiny, originals, detectors):
    """Wherever a family has a module for it; that boxes stay the model's own is tested below."""
    theirs = originals(tiny)
    named = [name for name, module in theirs.named_modules() if type(module).__name__ == THEIRS]
    ours = detectors(tiny).model
    assert all(isinstance(ours.get_submodule(name), SharedDeformableAttention) for name in named)
    assert hash_weights(ours) == hash_weights(theirs)


@pytest.mark.parametrize("name", ["deformable_detr", "grounding-dino", "rt_detr"])
def test_families_with_an_attention_to_share(name, detectors):
    """Were the module's name another one day, nothing would be shared."""
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == name)
    modules = list(detectors(tiny).model.modules())
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
def test_shapes_are_those_of_the_table(tiny, detectors):
    shapes, family = detectors(tiny).shapes, tiny.family
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
def test_boxes_scores_and_labels_are_the_models_own(tiny, folders, originals, detectors):
    """The whole way: picture → own pre-processing → instances, against the model's own post-processing."""
    detector, image = detectors(tiny), picture()
    model = MaskFrozenDetr(detector, random_network(detector))
    kept = tiny.family.detections
    count = kept if isinstance(kept, int) else getattr(detector.model.config, kept)
    found = model.predict(image, score_threshold=0.0, max_detections=count)
    expected = own_detections(tiny, originals(tiny), folders(tiny), detector, image)
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
def test_queries_line_up_with_their_logits(tiny, detectors):
    """Some class head of the model turns the very queries, in their order, into the logits."""
    detector = detectors(tiny)
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


# --- the mask network on top ---


@one_of_each_kind
def test_one_step_of_training_changes_the_mask_network_alone(tiny, folders):
    detector = tiny.load(folders(tiny))
    model = MaskFrozenDetr(detector, random_network(detector)).train()
    before = hash_weights(detector.model)
    statistics = {name: value.clone() for name, value in detector.model.named_buffers()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scenes = draw_scenes([detector.info.preprocessing.probe_size()] * 2, 16)
    found = detector(scenes.pixel_values, scenes.pixel_mask)
    output = model.network(found, scenes.pixel_mask, *all_queries(found))
    assert output.iou.shape == (2 * found.queries.shape[1], 4 if tiny.family.prompted else len(NAMES))
    (output.logits.square().mean() + output.iou.square().mean()).backward()
    idle = [n for n, p in model.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert not any(p.requires_grad or p.grad is not None for p in detector.parameters())
    weights = [p.clone() for p in model.network.parameters()]
    optimizer.step()
    assert all(not torch.equal(p, w) for p, w in zip(model.network.parameters(), weights, strict=True))
    assert hash_weights(detector.model) == before
    assert all(torch.equal(value, statistics[name]) for name, value in detector.model.named_buffers())
    assert not detector.model.training


@one_of_each_kind
def test_a_saved_run_gives_the_same_masks(tiny, detectors, tmp_path):
    detector, image = detectors(tiny), picture()
    model = MaskFrozenDetr(detector, random_network(detector))
    model.save_pretrained(tmp_path)
    again = MaskFrozenDetr.from_pretrained(tmp_path)
    first, second = (m.predict(image, 0.0, 20, probabilities=True) for m in (model, again))
    assert 10 <= len(first) == len(second)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert first.names == second.names
    for one, other in zip(first.probability_crops, second.probability_crops, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert any(crop.values.size and crop.values.std() > 0.01 for crop in first.probability_crops)


@one_of_each_kind
def test_a_detector_that_learns_is_saved_whole(tiny, folders, tmp_path):
    """Table 11: its own losses reach it, and what is written is what was learned."""
    detector = tiny.load(folders(tiny))
    if not tiny.family.has_loss:
        with pytest.raises(UserError, match="has no training losses for family"):
            detector.unfreeze("full")
        return
    parameters = detector.unfreeze("full")
    height, width = detector.info.preprocessing.probe_size()
    pixel_values = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])
    labels = [{"class_labels": torch.tensor([0, 2]), "boxes": boxes}] * 2
    loss = detector(pixel_values, torch.ones(2, height, width, dtype=torch.long), labels).loss
    assert loss is not None
    loss.backward()
    reached = [p for p in parameters if p.grad is not None and p.grad.any()]
    assert len(reached) > 0.5 * len(parameters)
    with torch.no_grad():
        for parameter in reached:
            parameter -= 1e-3 * parameter.grad.sign()
    detector.save(tmp_path)
    again = tiny.load(tmp_path)
    assert hash_weights(again.model) == hash_weights(detector.model)
    assert again.info.identity.weights == detector.hash_checkpoint() != detector.info.identity.weights
    image = picture()
    assert torch.equal(again.info.preprocessing(image), detector.info.preprocessing(image))
    if tiny.model_type == "yolos":
        with pytest.raises(UserError, match="no transformer apart from its backbone"):
            again.unfreeze("partial")
    else:
        assert 0 < len(again.unfreeze("partial")) < len(parameters)


padding_models = pytest.mark.parametrize(
    "tiny", [tiny for tiny in TINY_MODELS if tiny.pads], ids=lambda tiny: tiny.name.replace(" ", "-")
)


@padding_models
def test_a_padded_batch_gives_what_each_image_gives_alone(tiny, folders):
    """But for what the models themselves let in from the padding, which is taken out here: convolutions that reach
    over the border, group norms whose statistics count it, and Grounding DINO's decoder, which tells its queries
    where they are within the padded input."""
    detector = tiny.load(folders(tiny))
    blinker(detector.model)
    for module in detector.model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    network = random_network(detector)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in ((64, 128), (128, 64), (128, 128))]
    pixel_values, pixel_mask = collate_images(images)
    together = detector(pixel_values, pixel_mask)
    alone = [detector(image[None], torch.ones(1, *image.shape[1:])) for image in images]
    for name in ("queries", "boxes", "logits"):
        expected = torch.cat([getattr(one, name) for one in alone])
        if tiny.family.prompted:
            together = replace(together, **{name: expected})
        assert torch.allclose(getattr(together, name), expected, atol=1e-3)
    found = masks(network, together, pixel_mask).unflatten(0, together.queries.shape[:2])
    blind = masks(network, together, torch.ones_like(pixel_mask)).unflatten(0, together.queries.shape[:2])
    for b, image in enumerate(images):
        whole = torch.ones(1, *image.shape[1:])
        expected = masks(network, alone[b], whole)
        assert expected.std() > 0.05
        assert torch.allclose(found[b], expected, atol=1e-3)
        padded = whole.shape != pixel_mask[:1].shape
        assert torch.allclose(blind[b], expected, atol=1e-2) != padded  # taking padding for image shows


# --- where the maps lie ---


def geometry(tiny: TinyModel, detector: TransformersDetector, stem: bool) -> tuple[list[tuple[int, int]], int]:
    """Sizes of four images, and pixels of a cell, for `draw_scenes`."""
    cell = 4 if stem else tiny.cell or detector.shapes.strides[0]
    height, width = detector.info.preprocessing.probe_size()
    if tiny.pads:
        height = width = max(96, 10 * cell)
        return [(height, width), (height - 32, width), (height, width - 32), (height - 32, width - 32)], cell
    step = 32 if cell != 14 else 28  # what the patches and windows divide
    side = max(height, -(-10 * cell // step) * step)
    return [(side, side)] * 4, cell


@one_of_each_kind
def test_masks_lie_where_the_objects_are(tiny, folders):
    """Overfit with boxes given: through C₁ and through E₁ alone, each on batches with padding where the model pads.

    Frames half a cell too far, and the same training fails.
    """
    detector = tiny.load(folders(tiny))
    blinker(detector.model)
    has_stem = detector.shapes.stem_width is not None and detector.shapes.stem_stride == 4
    for stem in (True, False) if has_stem else (False,):
        sizes, cell = geometry(tiny, detector, stem)
        scenes = draw_scenes(sizes, 2 * cell)
        assert overfit(detector, scenes, stem).mean() > 0.9
        if stem == has_stem:
            assert overfit(detector, scenes, stem, shift=cell / 2).mean() < 0.9


@pytest.mark.parametrize("model_type", ["rt_detr", "deformable_detr", "yolos"])
def test_half_a_cell_to_the_other_side_fails_too(model_type, folders):
    tiny = TinyModel(model_type, model_type)
    detector = tiny.load(folders(tiny))
    blinker(detector.model)
    stem = model_type != "yolos"
    sizes, cell = geometry(tiny, detector, stem)
    assert overfit(detector, draw_scenes(sizes, 2 * cell), stem, shift=-cell / 2).mean() < 0.9


@pytest.mark.parametrize("model_type", ["deformable_detr", "detr", "grounding-dino"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_encoder_layer_is_the_one_that_was_asked_for(model_type, layer, folders):
    tiny = TinyModel(model_type, model_type)
    detector = load_detector(folders(tiny), encoder_layer=layer, prompt=PROMPT if tiny.family.prompted else None)
    assert detector.info.identity.encoder_layer == layer
    pixel_values = torch.randn(1, 3, 64, 128).contiguous(memory_format=torch.channels_last)  # as the detector has it
    found = detector(pixel_values, torch.ones(1, 64, 128))
    assert isinstance(detector, TransformersDetector)
    text = {} if detector.prompt is None else detector.prompt.inputs(1)
    with torch.no_grad():
        output = detector.model(pixel_values=pixel_values, output_hidden_states=True, **text)
    states = output.encoder_vision_hidden_states if text else output.encoder_hidden_states
    joined = torch.cat([level.flatten(2).transpose(1, 2) for level in found.features], 1)
    # Grounding DINO gives the states that go into each layer, from the second on.
    assert any(torch.allclose(joined, state, atol=1e-5) for state in states[layer : layer + 1])


@pytest.mark.parametrize("model_type", ["detr", "dab-detr", "deformable_detr", "rt_detr"])
def test_backbones_of_timm_have_a_stem(model_type, tmp_path):
    """Published checkpoints of the older families have them."""
    pytest.importorskip("timm")
    last = (4,) if model_type in ("detr", "dab-detr") else (2, 3, 4)
    options: dict[str, Any] = {"backbone": "resnet18", "out_indices": last}
    changes = {
        "backbone_config": lambda: transformers.TimmBackboneConfig(**options),
        "encoder_in_channels": [128, 256, 512],
    }
    tiny = TinyModel("timm", model_type, changes)
    shapes = tiny.load(tiny.save(tmp_path)).shapes
    assert (shapes.stem_width, shapes.stem_stride) == (64, 4)


# --- the stem of detectors without a stride-4 map ---


@pytest.mark.parametrize("source", ["pixels", "backbone"])
@pytest.mark.parametrize("model_type", ["yolos", "lw_detr", "rf_detr"])
def test_other_stems_learn_and_know_no_padding(model_type, source, folders):
    tiny = TinyModel(model_type, model_type)
    detector = tiny.load(folders(tiny))
    network = random_network(detector, replace(CONFIG, stem_from=source))
    assert network.fusion.uses_stem
    height, width = detector.info.preprocessing.probe_size()
    sizes = [(64, 128), (128, 64)] if tiny.pads else [(height, width)] * 2
    images = [torch.randn(3, *size) for size in sizes]
    pixel_values, pixel_mask = collate_images(images)
    together = detector(pixel_values, pixel_mask)
    output = network(together, pixel_mask, *all_queries(together))
    output.logits.square().sum().backward()
    fusion = {n: p for n, p in network.named_parameters() if n.startswith(("fusion", "pixel_stem"))}
    assert len(fusion) == (8 if source == "pixels" else 4)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.values())
    queries = together.queries.shape[1]
    for b, image in enumerate(images):
        whole = torch.ones(1, *image.shape[1:])
        expected = masks(network, detector(image[None], whole), whole)
        assert torch.allclose(output.logits[b * queries : (b + 1) * queries], expected, atol=1e-3)


def test_a_stem_that_is_not_there_is_refused(folders):
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == "lw_detr two maps")
    with pytest.raises(UserError, match="no map finer than E₁; expected 'pixels' or 'auto'"):
        MaskFrozenDetr.build(tiny.load(folders(tiny)), replace(CONFIG, stem_from="backbone"))


# --- prompts ---


def test_a_prompt_names_the_classes(folders):
    tiny = TinyModel("grounding-dino", "grounding-dino")
    listed = load_detector(folders(tiny), prompt=["Ant", "bee", "red  cow", "dog"])
    assert isinstance(listed, TransformersDetector)
    assert listed.prompt is not None
    assert listed.info.class_names == ["ant", "bee", "red cow", "dog"]
    assert listed.info.identity.prompt == PROMPT
    assert listed.prompt.owners.tolist() == [0, 1, 2, 2, 3]
    logits = torch.arange(32.0).expand(1, 3, -1).clone()
    assert listed.prompt.class_logits(logits)[0, 0].tolist() == [1.0, 3.0, 6.0, 8.0]


def test_another_prompt_goes_with_the_same_mask_network(folders, tmp_path):
    tiny = TinyModel("grounding-dino", "grounding-dino")
    detector = tiny.load(folders(tiny))
    MaskFrozenDetr(detector, random_network(detector)).save_pretrained(tmp_path)
    other = MaskFrozenDetr.from_pretrained(tmp_path, load_detector(folders(tiny), prompt="elk. bee."))
    found = other.predict(picture(), score_threshold=0.0)
    assert len(found) > 1
    assert set(found.names) <= {"elk", "bee"}


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (None, "finds what a prompt names, found none; expected prompt = 'cat. dog.'"),
        ("", "found '', expected class names"),
        ([], r"found \[\], expected class names"),
        (["ant", ""], "expected class names"),
        (["st. bernard"], "found the class name 'st. bernard', expected one without"),
        (["what?"], "expected one without"),
        ("ant. Ant.", "found 'ant' twice"),
        (["ant"] + ["elk " * k for k in range(1, 9)], "9 classes of 48 tokens, expected at most 32"),
    ],
)
def test_prompts_that_will_not_do(prompt, reason, folders):
    with pytest.raises(UserError, match=reason):
        load_detector(folders(TinyModel("grounding-dino", "grounding-dino")), prompt=prompt)


def test_a_prompt_for_a_detector_with_classes_is_refused(folders):
    with pytest.raises(UserError, match=r"prompt: found 'cat\.', but family 'rt_detr' has classes of its own"):
        load_detector(folders(TinyModel("rt_detr", "rt_detr")), prompt="cat.")


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


def test_a_family_that_is_not_installed_is_named_with_its_version(monkeypatch, folders):
    tiny = TinyModel("rt_detr", "rt_detr")
    folder = folders(tiny)
    monkeypatch.setitem(FAMILIES, "rt_detr", replace(tiny.family, model_class="RTDetrOfTomorrow", since="99.1"))
    with pytest.raises(UserError, match=r"'rt_detr' needs transformers 99.1 or newer, found 5\.\d+"):
        load_detector(folder)
    line = next(line for line in format_families().splitlines() if line.startswith("rt_detr "))
    assert line.endswith("(not installed)")
    assert load_detector(folders(TinyModel("yolos", "yolos"))).info.identity.family == "yolos"


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


def test_a_wrong_tap_is_named(folders, monkeypatch):
    tiny = TinyModel("detr", "detr")
    wrong = replace(tiny.family, features=Tokens("model.encoder.blocks", "model.input_projection"))
    monkeypatch.setitem(FAMILIES, "detr", wrong)
    with pytest.raises(UserError, match=r"DetrForObjectDetection has no module 'model\.encoder\.blocks'"):
        load_detector(folders(tiny))


def test_what_is_no_detector_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its model type is 'bert', expected one of conditional_detr, d_fine"):
        load_detector(tmp_path)


def test_encoder_layers_are_counted_from_one(folders):
    with pytest.raises(UserError, match="encoder_layer: found 0, expected 1"):
        load_detector(folders(TinyModel("detr", "detr")), encoder_layer=0)
