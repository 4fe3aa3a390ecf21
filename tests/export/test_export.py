"""A run as an ONNX graph: it finds what torch finds, runs without torch, and says what does not belong together."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, OnnxModel, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.preparation import fit_edges, resize_plainly
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.export.folder import export_model
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.results.instances import Instances

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def model(squashing, tiny_network) -> MaskFrozenDetr:
    torch.manual_seed(0)
    return MaskFrozenDetr.build(squashing, tiny_network).eval()


# One export takes a minute of processor time, nearly all of it torch's: what needs it is marked slow.
@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    found = export_model(model, folder, max_detections=30)
    assert found.input.batch is None
    assert max(found.differences.values()) < 5e-4
    return folder


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def assert_same(ours: Instances, theirs: Instances) -> None:
    """As found by torch, up to rounding: a pixel at the very threshold may fall on either side."""
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.class_scores, theirs.class_scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.02)
    assert (ours.masks != theirs.masks).mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_it_finds_what_torch_finds(threshold, model, exported):
    pictures = [picture(120, 160), picture(200, 96, seed=1)]
    ours = OnnxModel(exported).predict(pictures, threshold, max_detections=30)
    theirs = model.predict(pictures, threshold, max_detections=30)
    assert sum(map(len, theirs)) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_a_batch_is_its_pictures(exported):
    runs = OnnxModel(exported)
    prepared = [runs.prepare(picture(96, 96, seed)).pixels for seed in range(3)]
    together = runs.segment(prepared, [(96, 96)] * 3, 30)
    for one, alone in zip(together, prepared, strict=True):
        assert_same(one, runs.segment([alone], [(96, 96)], 30)[0])


@pytest.mark.slow
def test_masks_are_made_above_the_threshold_alone(exported):
    runs = OnnxModel(exported)
    pixels = runs.prepare(picture(96, 96)).pixels[None]
    every = runs.run(pixels)
    threshold = float(np.median(every.class_scores))
    some = runs.run(pixels, threshold)
    above = some.class_scores[0] > threshold
    assert 0 < above.sum() < len(above)
    np.testing.assert_allclose(some.masks[0, above], every.masks[0, above], atol=1e-6)
    assert not some.masks[0, ~above].any()


@pytest.mark.slow
def test_any_runtime_needs_the_image_alone_and_finds_what_it_is(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": np.zeros((1, 3, 96, 96), np.float32)}), strict=True))
    assert found["masks"].shape == (1, 30, 8, 8)
    described = json.loads(session.get_modelmeta().custom_metadata_map["mask_frozen_detr"])
    assert described["class_names"] == ["disc", "ring", "star"]
    assert described["preprocessing"]["size"] == [96, 96]


@pytest.mark.slow
def test_it_runs_where_nothing_else_is_installed(exported):
    heavy = (
        "torch",
        "torchvision",
        "transformers",
        "accelerate",
        "pycocotools",
        "scipy",
        "safetensors",
        "onnx",
        "tyro",
    )
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
        "import numpy as np\n"
        "from mask_frozen_detr.runtime import OnnxModel\n"
        f"found = OnnxModel({str(exported)!r}).predict(np.zeros((40, 60, 3), np.uint8), 0.0, max_detections=5)\n"
        "print(len(found), len(found.to_rle()), len(found.to_polygons()), found.masks.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "5 5 5 (5, 40, 60)\n")


@pytest.mark.slow
def test_the_command_line_predicts_with_it(exported, tmp_path, capfd):
    Image.fromarray(picture(96, 128)).save(tmp_path / "photo.png")
    arguments = ["predict", str(exported), str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--score-threshold", "0.0"]) == 0
    assert "30 instances in 1 pictures" in capfd.readouterr().out
    assert main([*arguments, "--precision", "bf16"]) == 2
    assert "but an exported model computes as it was exported" in capfd.readouterr().err


# --- what does not belong together ---


def edit(folder: Path, **changes) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **changes}))


@pytest.mark.slow
def test_files_of_two_exports(copy):
    with open(copy / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"model\.onnx: does not belong to model\.json beside it"):
        OnnxModel(copy)


@pytest.mark.slow
def test_a_graph_that_is_missing(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx: is missing, but model\.json names it"):
        OnnxModel(copy)


@pytest.mark.slow
def test_a_graph_of_operators_that_the_runtime_does_not_know(copy):
    graph = onnx.load(copy / "model.onnx")
    graph.opset_import[0].version = 999
    onnx.save(graph, copy / "model.onnx")
    edit(copy, opset=999, checksums={"model.onnx": hash_file(copy / "model.onnx")})
    with pytest.raises(UserError, match=r"onnxruntime [\d.]+ cannot take this graph of opset 999: .*lower --opset"):
        OnnxModel(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"made_by": "another"}, "was not written by `mask-frozen-detr export`"),
        ({"format": 99}, r"newer version \(format 99, expected up to 1\)"),
        ({"opset": "x"}, "is damaged .*opset"),
        ({"preprocessing": {"fit": "squash"}}, "is damaged .*preprocessing"),
        ({"checksums": {}}, r"names no model\.onnx"),
    ],
)
def test_a_description_that_is_none(changes, words, copy):
    edit(copy, **changes)
    with pytest.raises(UserError, match=words):
        OnnxModel(copy)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        OnnxModel(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"model\.json: is missing"):
        OnnxModel(tmp_path)


@pytest.mark.slow
def test_sizes_and_numbers_that_the_graph_does_not_take(exported):
    runs = OnnxModel(exported)
    with pytest.raises(UserError, match="found 64 rows, but this graph takes 96"):
        runs.run(np.zeros((1, 3, 64, 96), np.float32))
    with pytest.raises(UserError, match="found 31, but the graph gives 30"):
        runs.predict(picture(96, 96), max_detections=31)
    with pytest.raises(UserError, match="runtime: found 'tflite'"):
        OnnxModel(exported, runtime=cast(Any, "tflite"))


# --- what cannot be exported, and where ---


def test_foreign_files_stay(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which no export wrote"):
        export_model(model, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_models_that_cannot_be_exported_say_so_first(padding, squashing, tiny_network, tmp_path):
    with pytest.raises(UserError, match="takes pictures of any size"):
        export_model(MaskFrozenDetr.build(padding, tiny_network), tmp_path / "a")
    whole = MaskNetworkConfig(
        image_layers=1, box_encoder="none", box_layers=0, query_ffn=False, query_b2o=False, roi_align=False,
        mask_scoring=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="made without RoIAlign"):
        export_model(MaskFrozenDetr.build(squashing, whole), tmp_path / "b")
    assert not list(tmp_path.iterdir())


# --- pre-processing without torch ---


def test_pre_processing_of_any_detector_as_a_record(squashing, padding):
    assert portable(squashing.info.preprocessing, "a").fit == "squash"
    assert portable(padding.info.preprocessing, "b").fit == "edges"
    assert portable(ShortestEdge(120, 200), "c").fit == "edges rounded"


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (375, 1242), (800, 800), (1001, 333)])
def test_edges_are_those_of_detr(height, width):
    assert fit_edges(height, width, 800, 1333) == ShortestEdge().size(height, width)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 70), (64, 31)])
def test_resizing_without_antialiasing_is_that_of_torch(mode, size):
    pixels = picture(48, 56)
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(values, size=size, mode=mode).round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    found = resize_plainly(pixels, size[0], size[1], cubic=mode == "bicubic")
    assert np.abs(found - wanted).max() <= 1
