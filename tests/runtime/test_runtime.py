"""`OnnxModel` on a graph made by hand, whose answers are known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from exported_models import edit
from PIL import Image

from mask_frozen_detr.cli import main
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import read_evaluation
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.runtime import OnnxModel
from mask_frozen_detr.runtime.description import ExportedModel, InputSize

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

# One query under two classes, and another: its left half is the mask, the other's box is filled.
ANSWERS = {
    "boxes": np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1.25, 1]]], np.float32),
    "scores": np.array([[0.9, 0.6, 0.5]], np.float32),
    "class_scores": np.array([[0.9, 0.6, 0.5]], np.float32),
    "labels": np.array([[1, 0, 1]]),
    "queries": np.array([[7, 7, 3]]),
    "masks": np.stack([np.tile([[1, 1, 0, 0]], (4, 1))] * 2 + [np.ones((4, 4))])[None].astype(np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade(tmp_path_factory.mktemp("handmade"), padded=False)


def handmade(place: Path, padded: bool) -> Path:
    """A graph of 8 × 8 pixels. padded: it takes smaller pictures, and its class scores tell their height and width."""
    kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int64): onnx.TensorProto.INT64}
    make = onnx.helper.make_node
    nodes = [
        make("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
        for name, value in ANSWERS.items()
        if not (padded and name == "class_scores")
    ]
    inputs = [
        onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["B", 3, 8, 8]),
        onnx.helper.make_tensor_value_info("score_threshold", onnx.TensorProto.FLOAT, []),
    ]
    if padded:
        inputs.append(onnx.helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, ["B", 2]))
        percent = onnx.numpy_helper.from_array(np.array(0.01, np.float32))
        nodes += [
            make("Cast", ["sizes"], ["whole"], to=onnx.TensorProto.FLOAT),
            make("ReduceMax", ["whole"], ["longest"], keepdims=1),
            make("Concat", ["whole", "longest"], ["three"], axis=1),
            make("Constant", [], ["percent"], value=percent),
            make("Mul", ["three", "percent"], ["class_scores"]),
        ]
    outputs = [onnx.helper.make_tensor_value_info(name, kinds[v.dtype], v.shape) for name, v in ANSWERS.items()]
    graph = onnx.helper.make_graph(nodes, "handmade", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), place / "model.onnx")
    zeros, ones = (0.0,) * 3, (1.0,) * 3
    squash = Preparation("squash", (8, 8), 2, True, 1 / 255, zeros, ones)
    described = ExportedModel(
        version="0",
        opset=18,
        input=InputSize(None, 8, 8, padded),
        detections=3,
        mask_side=4,
        mask_threshold=0.5,
        mask_scoring=True,
        preprocessing=Preparation("edges", (6, 12), 2, True, 1 / 255, zeros, ones, (8, 8)) if padded else squash,
        class_names=["cat", "dog"],
        classes=None,
        max_detections=3,
        detector={},
        checksums={"model.onnx": hash_file(place / "model.onnx")},
    )
    write_json_atomic(place / "model.json", described.as_file())
    return place


def test_a_graph_of_padded_pictures_is_told_their_sizes(tmp_path):
    model = OnnxModel(handmade(tmp_path, padded=True))
    found = model.predict(np.zeros((24, 48, 3), np.uint8), 0.0)
    np.testing.assert_allclose(found.class_scores, [0.04, 0.08, 0.08])  # 6 × 12 would not fit 8 × 8
    np.testing.assert_allclose(found.boxes[0], [0, 0, 24, 12])
    assert model.prepare(np.zeros((7, 7, 3), np.uint8)).pixels.shape == (3, 6, 6)
    with pytest.raises(UserError, match="found 9 rows, but this graph takes 8"):
        model.run([np.zeros((3, 9, 8), np.float32)])


def test_masks_lie_in_their_boxes(folder):
    found = OnnxModel(folder).predict(np.zeros((16, 24, 3), np.uint8), 0.4)
    assert found.names == ["dog", "cat", "dog"]
    np.testing.assert_allclose(found.boxes[2], [12, 8, 30, 16])
    wanted = np.zeros((3, 16, 24), bool)
    wanted[:2, :8, :6] = True  # the left half of 12 pixels
    wanted[2, 8:, 12:] = True  # as far as the box lies within the picture
    assert (found.masks == wanted).all()
    assert found.crops[0] is found.crops[1], "one query, one mask"


def test_what_it_finds_is_scored_as_of_any_model(folder, tmp_path, capfd):
    """The truth is what the graph answers, but for the last object, of whose box a half is a mask."""
    corners = {"dog": (0, 0, 6, 8), "cat": (0, 0, 6, 8), "dog ": (12, 8, 18, 16)}
    truth = [
        {
            "id": number,
            "image_id": 1,
            "category_id": {"cat": 1, "dog": 2}[name.strip()],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
        }
        for number, (name, (x0, y0, x1, y1)) in enumerate(corners.items(), 1)
    ]
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    images = [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}]
    content = {"images": images, "annotations": truth, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(content))
    arguments = ["evaluate", str(folder), str(tmp_path / "data.json"), "--images", str(tmp_path)]
    assert main([*arguments, "--workers", "0", "--json", str(tmp_path / "found.json")]) == 0
    figures = read_evaluation(tmp_path / "found.json")
    assert figures.mask_by_class["cat"] == pytest.approx(100)
    # Of two dogs the better one is right at all ten thresholds; the other covers half, which the first alone allows.
    half = 51 / 101
    assert figures.mask_by_class["dog"] == pytest.approx(100 * (1 + 9 * half) / 10)
    capfd.readouterr()
    for option, words in ((["--max-detections", "4"], "the graph gives 3"), (["--no-roi-align"], "as it was exported")):
        assert main([*arguments, *option]) == 2
        assert words in capfd.readouterr().err


def test_scores_and_classes_choose(folder):
    model = OnnxModel(folder)
    picture = np.zeros((16, 24, 3), np.uint8)
    assert model.predict(picture, 0.55).names == ["dog", "cat"]
    assert model.predict(picture, 0.0, classes=["cat"]).names == ["cat"]
    assert model.predict(picture, 0.0, max_detections=1).names == ["dog"]
    one, two = model.predict([picture, picture], 0.95)
    assert len(one) == len(two) == 0


# --- what does not belong together ---


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def test_files_of_two_exports(copy):
    with open(copy / "model.onnx", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"model\.onnx: does not belong to model\.json beside it"):
        OnnxModel(copy)


def test_a_graph_that_is_missing(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx: is missing, but model\.json names it"):
        OnnxModel(copy)


def test_a_graph_of_operators_that_the_runtime_does_not_know(copy):
    graph = onnx.load(copy / "model.onnx")
    graph.opset_import[0].version = 999
    onnx.save(graph, copy / "model.onnx")
    edit(copy, opset=999, checksums={"model.onnx": hash_file(copy / "model.onnx")})
    with pytest.raises(UserError, match=r"onnxruntime [\d.]+ cannot take this graph of opset 999: .*lower --opset"):
        OnnxModel(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"made_by": "another"}, "was not written by `mask-frozen-detr export`"),
        ({"format": 99}, r"newer version \(format 99, expected up to 1\)"),
        ({"opset": "x"}, "is damaged .*opset"),
        ({"preprocessing": {"fit": "squash"}}, "is damaged .*preprocessing"),
        ({"checksums": {}}, r"names no model\.onnx"),
        ({"checksum": "0"}, "is damaged or was edited"),
    ],
)
def test_a_description_that_is_none(changes, words, copy):
    edit(copy, **changes)
    with pytest.raises(UserError, match=words):
        OnnxModel(copy)


@pytest.mark.parametrize("key", ["mask_threshold", "preprocessing", "class_names", "detections"])
def test_a_description_that_was_edited_is_not_believed(key, copy):
    """Each would give other predictions of the same graph, which has a checksum of its own."""
    path = copy / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    OnnxModel(copy)  # laid out in another way it says the same
    other = {"mask_threshold": 0.25, "class_names": ["dog", "cat"], "detections": 2}
    other["preprocessing"] = {**content["preprocessing"], "std": [2.0, 1.0, 1.0]}
    path.write_text(json.dumps({**content, key: other[key]}))
    with pytest.raises(UserError, match=r"model\.json: is damaged or was edited: .*export anew"):
        OnnxModel(copy)


def test_a_description_of_older_versions_has_no_checksum(folder, copy):
    edit(copy)
    assert OnnxModel(copy).description == OnnxModel(folder).description
