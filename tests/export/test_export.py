"""A run as an ONNX graph: it finds what torch finds, and runs without torch."""

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
from exported_models import assert_same, edit, picture
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, OnnxModel, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.preparation import Preparation, fit_edges, resize_plainly
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.export.folder import export_model
from mask_frozen_detr.export.precision import halve, quantise
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.export.tensorrt import unsupported
from mask_frozen_detr.machine.checksums import hash_file

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
    found = export_model(model, folder, max_detections=30, pasted=True)
    assert found.input.batch is None
    assert max(found.differences.values()) < 5e-4
    assert not found.strangers, "TensorRT takes them all"
    return folder


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_it_finds_what_torch_finds(threshold, model, exported):
    pictures = [Image.fromarray(picture(120, 160)), Image.fromarray(picture(200, 96, seed=1))]
    pixels = [model.preprocessing(one) for one in pictures]  # of both: resizing rounds, and random networks amplify it
    sizes = [(one.height, one.width) for one in pictures]
    ours = OnnxModel(exported).segment([one.numpy() for one in pixels], sizes, 30, threshold)
    theirs = model.segment(pixels, sizes, 30, threshold)
    assert sum(map(len, theirs)) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_from_a_photo_it_finds_about_what_torch_finds(model, exported):
    photo = picture(120, 160)
    ours, theirs = (one.predict(photo, 0.0, max_detections=30) for one in (OnnxModel(exported), model))
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.02)
    assert (ours.masks.any(0) != theirs.masks.any(0)).mean() < 0.05


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
    place = str(Path(torch.__file__).parent)
    assert place.encode() not in (exported / "model.onnx").read_bytes(), "nothing of the machine that exported"
    described = json.loads(session.get_modelmeta().custom_metadata_map["mask_frozen_detr"])
    assert described["class_names"] == ["disc", "ring", "star"]
    assert described["preprocessing"]["size"] == [96, 96]


@pytest.mark.slow
def test_the_graph_pastes_masks_as_the_runtime_does(exported):
    """Of a picture of the input's own size, so that both see the same pixels."""
    runs = OnnxModel(exported)
    prepared = runs.prepare(picture(96, 96))
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    size = np.array([96, 96])
    found = dict(zip(names, session.run(None, {"images": prepared.pixels[None], "picture": size}), strict=True))
    assert found["pixels"].shape == (1, 30, 96, 96)
    theirs = runs.predict_prepared([prepared], 0.0, 30)[0]
    wanted = {
        (round(float(one), 6), name): mask
        for one, name, mask in zip(theirs.class_scores, theirs.labels, theirs.masks, strict=True)
    }
    for score, label, mask in zip(found["class_scores"][0], found["labels"][0], found["pixels"][0], strict=True):
        assert (mask != wanted[(round(float(score), 6), label)]).mean() < 1e-3


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
    for option in (["--precision", "bf16"], ["--mirror"]):
        assert main([*arguments, *option]) == 2
        assert "but an exported model computes as it was exported" in capfd.readouterr().err


# --- what it does not take ---


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


def test_models_that_cannot_be_exported_say_so_first(padding, squashing, tiny_network, tmp_path, monkeypatch):
    any_size = MaskFrozenDetr.build(padding, tiny_network)
    with pytest.raises(UserError, match="size: found 0 99, expected the height and width"):
        export_model(any_size, tmp_path / "a", size=(0, 99))
    with pytest.raises(UserError, match=r"size: found .*takes 96 96 alone"):
        export_model(MaskFrozenDetr.build(squashing, tiny_network), tmp_path / "a", size=(64, 96))
    with monkeypatch.context() as patched:
        patched.setattr(type(padding), "knows_padding", False)
        with pytest.raises(UserError, match="takes pictures of any size, and knows no padding"):
            export_model(any_size, tmp_path / "a")
    with pytest.raises(UserError, match="calibrate: found nothing, expected a folder of your pictures"):
        export_model(any_size, tmp_path / "a", precision="int8")
    (tmp_path / "bad.png").write_text("404")
    with pytest.raises(UserError, match=r"calibrate: none of 1 pictures can be used, the first: .*bad\.png"):
        export_model(any_size, tmp_path / "a", precision="int8", pictures=[tmp_path / "bad.png"])
    with pytest.raises(UserError, match=r"calibrate: found a\.png with precision fp16; int8 alone needs it"):
        export_model(any_size, tmp_path / "a", precision="fp16", pictures=["a.png"])
    whole = MaskNetworkConfig(
        image_layers=1, box_encoder="none", box_layers=0, query_ffn=False, query_b2o=False, roi_align=False,
        mask_scoring=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="made without RoIAlign"):
        export_model(MaskFrozenDetr.build(squashing, whole), tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


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


@pytest.mark.parametrize(
    ("picture_size", "wanted"),
    [
        ((480, 640), (800, 1066)),  # as the detector has it
        ((375, 1242), (402, 1331)),
        ((640, 480), (800, 600)),  # would be 1066 high: both sides become smaller alike
        ((2000, 100), (800, 40)),
    ],
)
def test_pictures_fit_the_canvas(picture_size, wanted):
    prepare = Preparation("edges rounded", (800, 1333), 2, True, 1.0, (0.0,) * 3, (1.0,) * 3, canvas=(800, 1333))
    assert prepare.size_of(*picture_size) == wanted


# --- TensorRT ---


def test_operators_that_tensorrt_does_not_list(tmp_path):
    make = onnx.helper.make_node
    inner = onnx.helper.make_graph([make("Unique", ["x"], ["y"])], "inner", [], [])
    nodes = [
        make("Conv", ["a", "b"], ["c"]),
        make("SequenceAt", ["c", "d"], ["e"]),
        make("SequenceAt", ["c", "d"], ["f"]),
        make("If", ["g"], ["h"], then_branch=inner, else_branch=inner),
        make("Conv", ["a", "b"], ["i"], domain="mine"),
    ]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "odd", [], [])), tmp_path / "odd.onnx")
    assert sorted(unsupported(tmp_path / "odd.onnx")) == ["SequenceAt (2 ×)", "Unique (2 ×)", "mine.Conv (1 ×)"]


# --- fewer bits ---


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 1e-5, 0.02), ("int8", 1e-4, 0.2)])
def test_fewer_bits_find_about_the_same(precision, least, most, exported, copy, tmp_path):
    feeds = [
        {
            "images": OnnxModel(exported).prepare(picture(96, 96, seed)).pixels[None],
            "score_threshold": np.array(0, np.float32),
        }
        for seed in range(4)
    ]
    if precision == "fp16":
        halve(copy / "model.onnx")
    else:
        quantise(copy / "model.onnx", feeds)
    edit(copy, precision=precision, checksums={"model.onnx": hash_file(copy / "model.onnx")})
    kinds = {node.op_type for node in onnx.load(copy / "model.onnx").graph.node}
    assert ("QuantizeLinear" in kinds) == (precision == "int8")
    ours, theirs = OnnxModel(copy).run(feeds[0]["images"]), OnnxModel(exported).run(feeds[0]["images"])
    away = np.abs(ours.class_scores - theirs.class_scores).max()
    assert least < away < most


def test_depth_wise_convolutions_keep_their_bits(tmp_path):
    rng, make, kind = np.random.default_rng(0), onnx.helper.make_node, onnx.TensorProto.FLOAT
    weights = {"w": rng.normal(size=(4, 3, 1, 1)), "v": rng.normal(size=(4, 1, 3, 3))}
    graph = onnx.helper.make_graph(
        [make("Conv", ["x", "w"], ["y"], name="plain"), make("Conv", ["y", "v"], ["z"], name="deep", group=4)],
        "two convolutions",
        [onnx.helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("z", kind, [1, 4, 6, 6])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    file = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), file)
    quantise(file, [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(2)])
    initializers = {one.name: one.data_type for one in onnx.load(file).graph.initializer}
    assert initializers["v"] == kind, "a depth-wise convolution's weights"
    assert "w" not in initializers
    assert onnx.TensorProto.INT8 in initializers.values()
