"""Files in, detectors out: loading, converting, and every bad input as a clear error."""

import json
import os
import pickle

import pytest
import torch
from official_samples import (
    official_tensors,
    padded_batch,
    random_model,
    small_deformable,
    small_dino,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file

from mask_frozen_detr.detectors.official import convert_checkpoint, is_official_checkpoint, load_official
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.errors import UserError

CONFIGS = {
    "dino, swin, 5 levels": small_dino("swin", first_stage=0),
    "dino, focalnet": small_dino("focalnet"),
    "h-detr, resnet": small_deformable("resnet"),
    "h-detr, swin": small_deformable("swin"),
    "deformable detr": small_deformable("swin", content_rows=0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_file_gives_the_model_it_came_from(config, tmp_path):
    model = random_model(config)
    detector = load_official(write_checkpoint(model, tmp_path / "file.pth"))
    pixel_values, pixel_mask = padded_batch()
    expected = model(pixel_values.contiguous(memory_format=torch.channels_last), pixel_mask)  # as the detector has it
    found = detector(pixel_values, pixel_mask)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.queries, expected.states)
    assert torch.equal(found.stem, expected.stem)
    assert all(torch.equal(a, b) for a, b in zip(found.features, expected.features, strict=True))
    assert detector.info.identity.name == str(tmp_path / "file.pth")
    assert detector.info.identity.family == config.family
    assert not any(parameter.requires_grad for parameter in detector.parameters())


def test_shapes_and_rules_of_the_two_families(tmp_path):
    dino = load_official(write_checkpoint(random_model(small_dino("focalnet", first_stage=0)), tmp_path / "dino.pth"))
    assert dino.shapes.strides == (4, 8, 16, 32, 64)
    assert dino.shapes.stem_width == 16
    assert dino.shapes.num_classes == 7
    hdetr = load_official(write_checkpoint(random_model(small_deformable("resnet")), tmp_path / "hdetr.pth"))
    assert hdetr.shapes.strides == (8, 16, 32, 64)
    assert hdetr.shapes.stem_width == 256
    assert isinstance(hdetr.info.preprocessing, ShortestEdge)
    assert (hdetr.info.preprocessing.shortest, hdetr.info.preprocessing.longest) == (800, 1333)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_convert_then_load_gives_the_same_outputs(config, half, tmp_path):
    file = write_checkpoint(random_model(config), tmp_path / "file.pth")
    names = [f"class {index}" for index in range(7)]
    folder = convert_checkpoint(file, tmp_path / "new" / "folder", half=half, class_names=names)
    original, converted = load_official(file, class_names=names), load_official(folder)
    assert converted.model.config == original.model.config
    assert converted.info.class_names == names
    pixel_values, pixel_mask = padded_batch()
    expected, found = original(pixel_values, pixel_mask), converted(pixel_values, pixel_mask)
    if half:
        # Rounding may swap proposals of near-equal score; the encoder's maps have no such choice.
        for a, b in zip(found.features, expected.features, strict=True):
            assert (a - b).abs().max() < 0.02 * b.abs().max()
    else:
        assert converted.info.identity.weights == original.info.identity.weights
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.logits, expected.logits)


def test_convert_keeps_what_inference_needs_and_halves_it(tmp_path):
    model = random_model(small_dino("resnet"))
    file = write_checkpoint(model, tmp_path / "file.pth")
    full = convert_checkpoint(file, tmp_path / "full")
    half = convert_checkpoint(file, tmp_path / "half", half=True)
    tensors, halved = load_file(full / "model.safetensors"), load_file(half / "model.safetensors")
    assert "label_enc.weight" not in tensors
    assert not any(key.startswith("transformer.decoder.class_embed") for key in tensors)
    assert halved["transformer.enc_output.weight"].dtype == torch.float16
    assert halved["backbone.0.body.bn1.running_var"].dtype == torch.float32
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.52
    state = official_tensors(model)
    state["transformer.enc_output.weight"][0, 0] = 1e6  # beyond float16
    torch.save({"model": state}, file)
    large = load_file(convert_checkpoint(file, tmp_path / "large", half=True) / "model.safetensors")
    assert large["transformer.enc_output.weight"].dtype == torch.float32


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    file = write_checkpoint(random_model(small_dino()), tmp_path / "file.pth")

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("mask_frozen_detr.detectors.official.checkpoint.save_file", full_disk)
    with pytest.raises(UserError, match="folder: cannot be written: No space"):
        convert_checkpoint(file, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["file.pth"]


def test_convert_never_writes_into_what_is_there(tmp_path):
    file = write_checkpoint(random_model(small_dino()), tmp_path / "file.pth")
    with pytest.raises(UserError, match="exists and is not empty"):
        convert_checkpoint(file, tmp_path)
    (tmp_path / "empty").mkdir()
    assert load_official(convert_checkpoint(file, tmp_path / "empty")).info.identity.family == "dino"


def test_class_names(tmp_path):
    file = write_checkpoint(random_model(small_dino(num_classes=91)), tmp_path / "coco.pth")
    names = load_official(file).info.class_names
    assert (len(names), names[0], names[1], names[12], names[90]) == (91, "", "person", "", "toothbrush")
    assert sum(name != "" for name in names) == 80
    other = write_checkpoint(random_model(small_dino()), tmp_path / "own.pth")
    assert load_official(other).info.class_names == [""] * 7
    assert load_official(other, class_names="abcdefg").info.class_names == list("abcdefg")
    with pytest.raises(UserError, match="class_names: found 2 names, expected 7"):
        load_official(other, class_names=["cat", "dog"])


def test_options(tmp_path):
    model = random_model(small_dino())
    file = write_checkpoint(model, tmp_path / "file.pth")
    pixel_values, pixel_mask = padded_batch()
    first, fourth = (load_official(file, encoder_layer=k)(pixel_values, pixel_mask) for k in (1, 4))
    assert torch.equal(first.boxes, fourth.boxes)
    assert not torch.equal(first.features[0], fourth.features[0])
    for options, said in (
        ({"encoder_layer": 0}, "encoder_layer: found 0, expected 1 to 4"),
        ({"encoder_layer": 5}, "encoder_layer: found 5, expected 1 to 4"),
        ({"num_queries": 10}, "a DINO checkpoint says itself how many"),
        ({"name": "dino-resnet50"}, "is not dino-resnet50: it has backbone swin"),
        ({"name": "dino"}, "detector name: found 'dino', expected one of"),
    ):
        with pytest.raises(UserError, match=said):
            load_official(file, **options)


def test_a_missing_file_of_a_known_name_says_where_it_is_published(tmp_path):
    with pytest.raises(UserError, match=r"hdetr\.pth of h-deformable-detr-resnet50: no such file.*https://github.com"):
        load_official(tmp_path / "hdetr.pth", name="h-deformable-detr-resnet50")
    with pytest.raises(UserError, match="no such file"):
        load_official(tmp_path / "hdetr.pth")


def test_what_load_detector_hands_to_load_official(tmp_path):
    file = write_checkpoint(random_model(small_dino()), tmp_path / "file.pth")
    folder = convert_checkpoint(file, tmp_path / "folder")
    assert is_official_checkpoint(file)
    assert is_official_checkpoint(str(folder))
    assert is_official_checkpoint("not/there/hdetr_r50.pth")
    assert not is_official_checkpoint(tmp_path)
    assert not is_official_checkpoint("SenseTime/deformable-detr")


def test_data_parallel_prefix_bare_state_dict_and_half_precision(tmp_path):
    model = random_model(small_dino())
    tensors = official_tensors(model)
    expected = load_official(write_checkpoint(model, tmp_path / "file.pth"), num_queries=None)
    torch.save({"model": {f"module.{key}": value for key, value in tensors.items()}}, tmp_path / "ddp.pth")
    torch.save(tensors, tmp_path / "bare.pth")
    torch.save({"model": tensors}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    torch.save({"model": halves}, tmp_path / "half.pth")
    # Without the training's options eight heads are assumed; only the weights are compared.
    for name in ("ddp", "bare", "old"):
        assert load_official(tmp_path / f"{name}.pth").info.identity.weights == expected.info.identity.weights
    assert {p.dtype for p in load_official(tmp_path / "half.pth").model.parameters()} == {torch.float32}


class Opener:
    """Pickled, it would run a command when read."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_with_code_in_it_is_refused_and_does_not_run(new_format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model": official_tensors(random_model(small_dino())), "args": Opener()}
    torch.save(content, "file.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"file\.pth: it needs the class (posix|nt)\.system, which could run code"):
        load_official("file.pth")
    assert os.listdir() == ["file.pth"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_with_code_is_refused(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"model": Opener()}, protocol=protocol))
    with pytest.raises(UserError, match=r"file\.pkl: .*(posix|nt)\.system"):
        load_official("file.pkl")
    assert os.listdir() == ["file.pkl"]


def test_a_file_of_mmdet_is_recognised_by_its_classes_or_its_keys(tmp_path):
    torch.save({"state_dict": {"bbox_head.cls_branches.0.weight": torch.zeros(1)}, "meta": {}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"found key 'state_dict', as mmdet and lightning write it"):
        load_official(tmp_path / "a.pth")
    # The class is not importable here: its reference in a pickle, written by hand.
    (tmp_path / "b.pth").write_bytes(b"\x80\x02cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81.")
    with pytest.raises(UserError, match=r"mmengine.logging.history_buffer.HistoryBuffer, which .* mmdet's layout"):
        load_official(tmp_path / "b.pth")


@pytest.mark.parametrize("part", [0, 3, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_files(part, new_format, tmp_path):
    torch.save(
        {"model": official_tensors(random_model(small_dino()))},
        tmp_path / "file.pth",
        _use_new_zipfile_serialization=new_format,
    )
    content = (tmp_path / "file.pth").read_bytes()
    (tmp_path / "file.pth").write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    with pytest.raises(UserError, match=r"file\.pth: not a torch checkpoint, or (truncated|damaged)"):
        load_official(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "found a list, expected a dict with key 'model'"),
        ({"weights": 3}, "found keys weights, expected key 'model' with a dict of tensors"),
        ({"model": {}}, "expected key 'model' with a dict of tensors"),
        ({"model": {"a": "text"}}, "expected key 'model' with a dict of tensors"),
        ({"model": {"layer1.0.conv1.weight": torch.zeros(1)}}, "key 'transformer.level_embed' is missing"),
    ],
)
def test_files_that_hold_something_else(content, said, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"checkpoint .*file\.pth") as error:
        load_official(tmp_path / "file.pth")
    assert said in str(error.value)


@pytest.mark.parametrize("content", [b"hello, this is a text file\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(500)])
def test_files_that_are_no_checkpoint_at_all(content, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"file\.pth: not a torch checkpoint"):
        load_official(tmp_path / "file.pth")


def test_damaged_folders(tmp_path):
    file = write_checkpoint(random_model(small_dino()), tmp_path / "file.pth")
    folder = convert_checkpoint(file, tmp_path / "folder")
    settings, weights = folder / "official_detector.json", folder / "model.safetensors"
    good = settings.read_text()
    tensors = {key: value.clone() for key, value in load_file(weights).items()}  # not a view of the file

    def refused(said: str) -> None:
        with pytest.raises(UserError, match=said):
            load_official(folder)

    settings.write_text(good[: len(good) // 2])
    refused(r"official_detector\.json: not what `convert` writes")
    settings.write_text(json.dumps({**json.loads(good), "format": 99}))
    refused("found format 99, expected 1")
    config = json.loads(good)["config"]
    settings.write_text(json.dumps({**json.loads(good), "config": {**config, "unknown": 1}}))
    refused(r"unknown fields \['unknown'\]")
    settings.write_text(json.dumps({**json.loads(good), "config": {**config, "ffn": 49}}))
    refused("of another shape")
    settings.write_text(good)
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(r"model\.safetensors: damaged or truncated")
    tensors.pop("transformer.level_embed")
    save_file(tensors, weights)
    refused(r"missing: transformer\.level_embed")
    weights.unlink()
    refused(r"model\.safetensors is missing")
