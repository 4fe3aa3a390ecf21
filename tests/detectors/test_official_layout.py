"""Keys and shapes of the authors' files: all accounted for, and enough to tell which detector a file is."""

import json
import os
from pathlib import Path

import pytest
import torch
from official_samples import official_tensors, random_model, small_deformable, small_dino

from mask_frozen_detr.detectors.official.layout import infer_config
from mask_frozen_detr.detectors.official.model import OfficialDetr
from mask_frozen_detr.detectors.official.names import OFFICIAL_NAMES, backbone_name, check_name
from mask_frozen_detr.detectors.official.renames import ignored, model_tensors
from mask_frozen_detr.errors import UserError

SHARED = Path(os.environ.get("MASK_FROZEN_DETR_REFERENCE", Path(__file__).parents[3] / "shared" / "reference"))
STATE_DICTS = SHARED / "state_dicts"

PUBLISHED = [
    # file, name, window or kernel, stages, queries, rows, tensors of ours, parameters in millions
    ("hdetr_r50", "h-deformable-detr-resnet50", 0, 3, 300, 1800, 47.9),
    ("hdetr_swin_tiny", "h-deformable-detr-swin-tiny", 7, 3, 300, 1800, 48.5),
    ("hdetr_swin_large", "h-deformable-detr-swin-large", 7, 3, 300, 1800, 218.1),
    ("dino_r50_4scale", "dino-resnet50", 0, 3, 900, 900, 46.9),
    ("dino_r50_5scale", "dino-resnet50-5scale", 0, 4, 900, 900, 47.2),
    ("dino_swin_L_4scale", "dino-swin-large", 12, 3, 900, 900, 217.2),
    ("dino_focalnet_L_fl4_5scale", "dino-focalnet-large", 3, 4, 900, 900, 228.1),
]


def reference(name: str) -> dict[str, torch.Tensor]:
    """A published checkpoint without its values."""
    file = STATE_DICTS / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"{file.name} is not here; set MASK_FROZEN_DETR_REFERENCE to the folder with state_dicts/")
    content = json.loads(file.read_text())
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, (shape, dtype) in content.items()
    }


@pytest.mark.parametrize(
    ("file", "name", "window", "stages", "queries", "rows", "millions"), PUBLISHED, ids=[row[0] for row in PUBLISHED]
)
def test_published_checkpoint_is_recognised_and_every_key_placed(file, name, window, stages, queries, rows, millions):
    tensors = reference(file)
    config = infer_config(tensors, {}, file)
    check_name(name, config, file)
    assert (config.backbone.window, 4 - config.backbone.first_stage) == (window, stages)
    assert (config.num_queries, config.content_rows, config.num_classes) == (queries, rows, 91)
    assert (config.width, config.heads, config.points, config.ffn) == (256, 8, 4, 2048)
    assert (config.encoder_layers, config.decoder_layers) == (6, 6)
    with torch.device("meta"):
        model = OfficialDetr(config)
    found = model_tensors(model, tensors, config, file)  # raises for a key that is missing, left over or misshapen
    assert found.keys() == model.state_dict().keys()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("file", [row[0] for row in PUBLISHED])
def test_only_the_keys_named_are_ignored(file):
    tensors = reference(file)
    config = infer_config(tensors, {}, file)
    left = {key for key in tensors if ignored(key, config)}
    heads = {key for key in tensors if key.startswith(("transformer.decoder.class_", "transformer.decoder.bbox_"))}
    index = {key for key in tensors if key.endswith("relative_position_index")}
    assert left == heads | index | ({"label_enc.weight"} & tensors.keys())


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_every_name_says_where_its_checkpoint_is(name):
    assert OFFICIAL_NAMES[name].where.startswith("https://")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dino-resnet50", ["backbone swin-tiny (expected resnet50)", "family h-deformable-detr (expected dino)"]),
        ("h-deformable-detr-swin-large", ["backbone swin-tiny (expected swin-large)"]),
        ("deformable-detr-two-stage-swin-tiny", ["family h-deformable-detr (expected deformable-detr)"]),
        ("dino-swin-large-5scale", ["feature levels 4 (expected 5)"]),
    ],
)
def test_a_name_that_contradicts_the_file_lists_what_differs(name, said):
    config = infer_config(reference("hdetr_swin_tiny"), {}, "file.pth")
    with pytest.raises(UserError, match=f"file.pth is not {name}") as error:
        check_name(name, config, "file.pth")
    assert all(part in str(error.value) for part in said)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="found 'dino-r50', expected one of h-deformable-detr-resnet50, "):
        check_name("dino-r50", small_dino(), "file.pth")


CONFIGS = {
    "dino, swin, 5 levels": small_dino("swin", first_stage=0),
    "dino, focalnet": small_dino("focalnet"),
    "dino, resnet, heads not shared": small_dino("resnet", shared_heads=False),
    "h-detr, swin": small_deformable("swin"),
    "h-detr, resnet": small_deformable("resnet"),
    "deformable detr, no learned content": small_deformable("swin", content_rows=0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configuration_is_inferred_from_keys_shapes_and_args(config):
    tensors = official_tensors(random_model(config))
    args = {"nheads": 4, "num_queries_one2one": 20}
    assert infer_config(tensors, args, "file.pth") == config


@pytest.mark.parametrize(
    ("rows", "args", "asked", "found"),
    [
        (300, {}, None, 300),
        (1800, {}, None, 300),
        (2400, {}, None, 900),
        (1800, {"num_queries_one2one": 1800}, None, 1800),  # the authors' baseline with 1800 queries
        (600, {"num_queries_one2one": 300}, None, 300),
        (600, {}, 300, 300),
        (0, {}, None, 300),
        (0, {"num_queries": 100}, None, 100),
    ],
)
def test_queries_that_serve_inference(rows, args, asked, found):
    tensors = official_tensors(random_model(small_deformable("resnet", content_rows=rows)))
    assert infer_config(tensors, {"nheads": 4, **args}, "file.pth", asked).num_queries == found


@pytest.mark.parametrize(("rows", "asked"), [(600, None), (600, 601), (300, 0)])
def test_queries_that_cannot_be_told_are_an_error(rows, asked):
    tensors = official_tensors(random_model(small_deformable("resnet", content_rows=rows)))
    with pytest.raises(UserError, match=f"its {rows} learned queries do not tell .* num_queries from 1 to {rows}"):
        infer_config(tensors, {"nheads": 4}, "file.pth", asked)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("bbox_head.cls_branches.0.weight", "mmdet's layout"),
        ("transformer.encoder.layers.0.attentions.0.value_proj.weight", "detrex's layout"),
        ("model.backbone.conv_encoder.model.conv1.weight", "transformers' layout"),
        ("transformer.reference_points.weight", "a single-stage Deformable DETR"),
        ("transformer.encoder.layers.0.self_attn.in_proj_weight", "the original DETR"),
        ("fc.weight", "'transformer.level_embed' is missing"),
    ],
)
def test_other_layouts_are_named(key, said):
    with pytest.raises(UserError, match=r"^checkpoint file\.pth") as error:
        infer_config({key: torch.zeros(1)}, {}, "file.pth")
    assert said in str(error.value)


def test_an_unknown_backbone_is_named():
    tensors = official_tensors(random_model(small_dino()))
    tensors = {key.replace("backbone.0.layers", "backbone.0.vit"): value for key, value in tensors.items()}
    with pytest.raises(UserError, match=r"unknown backbone \(keys .*expected a ResNet .* Swin or a FocalNet"):
        infer_config(tensors, {}, "file.pth")


@pytest.mark.parametrize(
    ("args", "said"),
    [({"dilation": True}, "dilation = True"), ({"transformer_activation": "gelu"}, "transformer_activation = 'gelu'")],
)
def test_options_that_leave_no_trace_in_the_keys_are_refused(args, said):
    with pytest.raises(UserError, match=f"trained with {said}; only .* is supported"):
        infer_config(official_tensors(random_model(small_dino())), args, "file.pth")


def test_missing_left_over_and_misshapen_keys_are_all_listed():
    model = random_model(small_dino())
    tensors = official_tensors(model)
    del tensors["transformer.encoder.layers.2.norm1.weight"]
    tensors["mask_head.weight"] = torch.zeros(1)
    tensors["transformer.enc_output.bias"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"checkpoint file\.pth does not fit") as error:
        model_tensors(model, tensors, model.config, "file.pth")
    assert "missing: transformer.encoder.layers.2.norm1.weight" in str(error.value)
    assert "not known: mask_head.weight" in str(error.value)
    assert "transformer.enc_output.bias is (3,), expected (64,)" in str(error.value)


def place(tensors: dict[str, torch.Tensor]) -> None:
    config = infer_config(tensors, {"nheads": 4, "num_queries_one2one": 20}, "file.pth")
    with torch.device("meta"):
        model_tensors(OfficialDetr(config), tensors, config, "file.pth")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_file_that_lacks_any_key_is_refused(config):
    tensors = official_tensors(random_model(config))
    needed = [key for key in tensors if not ignored(key, config)]
    firsts = [key for key in needed if "level_embed" in key or "patch_embed" in key or "_embed.0." in key]
    for key in [*needed[::50], *firsts]:
        without = {name: value for name, value in tensors.items() if name != key}
        with pytest.raises(UserError, match=r"file\.pth"):
            place(without)


def test_backbones_without_a_name_are_described():
    assert backbone_name(small_dino("resnet").backbone) == "resnet of width 64 and depths (1, 1, 1, 1)"
