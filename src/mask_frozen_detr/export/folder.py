"""`export_model`: a model as an ONNX graph, compared with torch, in a folder with all that is needed to run it."""

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.data.usable_pictures import usable_pictures
from mask_frozen_detr.errors import UserError, check_choice, check_number, shorten
from mask_frozen_detr.export.checks import (
    calibration_pictures,
    check_exportable,
    check_packages,
    check_target,
    with_canvas,
)
from mask_frozen_detr.export.graph import OUTPUTS, PIXELS, MaskGraph
from mask_frozen_detr.export.precision import halve, quantise
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.export.tensorrt import VERSION, unsupported
from mask_frozen_detr.export.tracing import PICTURES, Example, quiet, trace
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.machine.config import ExportPrecision
from mask_frozen_detr.machine.files import write_folder_atomic, write_json_atomic
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.runtime.description import DESCRIPTION_FILE, GRAPH_FILE, ExportedModel, InputSize
from mask_frozen_detr.runtime.model import PICTURE, SIZES, THRESHOLD, feed
from mask_frozen_detr.runtime.sessions import open_session

OPSETS = (18, 23)  # lowest and highest that are offered
METADATA = "mask_frozen_detr"  # key in the graph
# Beside torch: of scores, of boxes (parts of the picture's side), of probabilities, which large maps round more, and of
# pasted pixels (a share of them), of which one at the very threshold may fall on either side.
TOLERANCES = {"class scores": 1e-3, "boxes": 1e-3, "masks": 1e-2, "pasted pixels": 1e-2}


@dataclass(frozen=True)
class Exported:
    """Where the model lies, and the largest difference from torch in class scores, boxes and mask probabilities.

    precision: of the graph that was written; differences: of the one in float32. strangers: operators that TensorRT
    does not take, see `tensorrt.unsupported`. problems: pictures that 8 bits were calibrated without, and why.
    """

    folder: Path
    input: InputSize
    bytes: int
    precision: ExportPrecision
    differences: dict[str, float]
    strangers: list[str]
    problems: list[str]

    def report(self) -> str:
        batch = "any number of pictures" if self.input.batch is None else f"{self.input.batch} picture at a time"
        worst = ", ".join(f"{name} {value:.1g}" for name, value in self.differences.items())
        padded = ", smaller ones padded" if self.input.padded else ""
        lines = [
            f"{self.folder / GRAPH_FILE}: {self.bytes / 1e6:.1f} MB, {batch} of {self.input.width} × "
            f"{self.input.height} pixels{padded}",
            f"ONNX Runtime beside torch, largest differences: {worst}",
        ]
        if self.precision != "fp32":
            lines.append(
                f"written in {self.precision}, those being of float32: `mask-frozen-detr evaluate` tells its AP"
            )
        taken = shorten(self.strangers) if self.strangers else "none"
        lines += [f"calibrated without: {problem}" for problem in self.problems]
        lines.append(f"operators that TensorRT {VERSION} does not list as supported: {taken}")
        return "\n".join(lines)


def export_model(
    model: MaskFrozenDetr,
    folder: str | Path,
    max_detections: int | None = None,
    opset: int = 20,
    size: Sequence[int] | None = None,
    precision: ExportPrecision = "fp32",
    pictures: Sequence[str | Path] = (),
    pasted: bool = False,
) -> Exported:
    """Write `model` as a folder for `mask_frozen_detr.runtime.OnnxModel`: model.onnx and model.json.

    max_detections: rows of the graph's outputs; None takes what the run was trained with. opset: of ONNX.
    size: (height, width) of the graph's input, for a detector of any size: pictures are resized as it has them, made
    smaller where they would not fit, and padded; None takes its shorter and longer side.
    precision: "fp16" makes convolutions of half precision; "int8" makes them of 8 bits, with ranges
    that `pictures` (files, folders or patterns, of which 100 are enough) have shown. What that costs, `evaluate` tells.
    pasted: the graph also gives masks at the size of a picture, which it takes as an input.
    A picture that cannot be read is left out, and told of.
    The graph is run by ONNX Runtime and compared with torch before the folder takes its place, in float32.
    Raises UserError, before the work starts, where the model or its pre-processing cannot be exported, packages are
    missing, or the folder holds anything else than an earlier export; and where the graph differs from torch.
    """
    folder = Path(folder)
    max_detections = model.max_detections if max_detections is None else max_detections
    check_number("max_detections", max_detections, least=1, whole=True)
    check_number("opset", opset, *OPSETS, whole=True)
    check_choice("precision", precision, get_args(ExportPrecision))
    calibrating = calibration_pictures(precision, pictures)
    check_packages()
    check_target(folder)
    check_exportable(model)
    name = model.detector.info.identity.name
    preparation = with_canvas(portable(model.detector.info.preprocessing, name), size, name)
    prepared, problems = usable_pictures(calibrating, lambda path: preparation(read_image(path)), "calibrate")
    height, width = preparation.canvas or preparation.size
    channels = model.preprocessing.channels
    example = Example.of(height, width, preparation.canvas is not None, pasted, channels)
    outputs = (*OUTPUTS, PIXELS) if pasted else OUTPUTS
    graph = MaskGraph(model.cpu(), max_detections).eval()
    with torch.no_grad(), quiet():
        expected = dict(zip(outputs, graph(**example.inputs), strict=True))
        program, batch = trace(graph, example, opset, name, outputs)
    size_taken = InputSize(batch, height, width, SIZES in example.inputs)
    rows = expected["boxes"].shape[1]
    described = _describe(model, preparation, size_taken, rows, min(max_detections, rows), opset, precision)
    differences: dict[str, float] = {}
    strangers: list[str] = []

    def write(place: Path) -> None:
        graph_file = place / GRAPH_FILE
        _save(program, graph_file, described)
        differences.update(_compare(graph_file, described, example, expected))
        _reduce(graph_file, described, prepared)
        strangers.extend(unsupported(graph_file))
        written = replace(described, checksums={GRAPH_FILE: hash_file(graph_file)})
        write_json_atomic(place / DESCRIPTION_FILE, written.as_file())

    write_folder_atomic(folder, write)
    size_written = (folder / GRAPH_FILE).stat().st_size
    return Exported(folder, size_taken, size_written, precision, differences, strangers, problems)


def _describe(
    model: MaskFrozenDetr,
    preparation: Preparation,
    size: InputSize,
    rows: int,
    max_detections: int,
    opset: int,
    precision: ExportPrecision,
) -> ExportedModel:
    """What model.json says, but for the checksum of a graph that is not there yet. rows: of the graph's outputs."""
    info = model.detector.info
    return ExportedModel(
        version=importlib.metadata.version("mask-frozen-detr"),
        opset=opset,
        input=size,
        detections=rows,
        mask_side=model.network.config.mask_side,
        mask_threshold=MASK_THRESHOLD,
        mask_scoring=model.network.config.mask_scoring,
        preprocessing=preparation,
        class_names=list(info.class_names),
        classes=model.classes,
        max_detections=max_detections,
        detector=info.identity.as_dict(),
        checksums={},
        held_out=model.held_out,
        supervision=model.supervised,
        precision=precision,
    )


def _reduce(graph: Path, described: ExportedModel, pictures: Sequence[Any]) -> None:
    """The graph in the precision that was asked for; pictures: prepared ones, to calibrate 8 bits with."""
    if described.precision == "fp16":
        halve(graph)
    elif described.precision == "int8":
        quantise(graph, [feed(described.input, [one], score_threshold=0.0) for one in pictures])


def _save(program: Any, path: Path, described: ExportedModel) -> None:
    """With what it is in its metadata, and with defaults of inputs: threshold 0, masks pasted at one pixel."""
    import onnx

    proto = program.model_proto
    content = {key: value for key, value in described.as_json().items() if key != "checksums"}
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(content, ensure_ascii=False)})
    defaults = {THRESHOLD: np.array(0.0, np.float32), PICTURE: np.array([1, 1])}
    for name in defaults.keys() & {taken.name for taken in proto.graph.input}:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(defaults[name], name))
    path.write_bytes(proto.SerializeToString())


def _compare(
    graph: Path, described: ExportedModel, example: Example, expected: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Largest differences from torch. Raises UserError where they are more than rounding explains."""
    run, step = open_session(graph, described.opset), described.input.batch or PICTURES
    parts = [
        run({name: value.numpy() for name, value in example.some(step, start).items()})
        for start in range(0, PICTURES, step)
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    wanted = {name: value.numpy() for name, value in expected.items()}
    same = (found["queries"] == wanted["queries"]) & (found["labels"] == wanted["labels"])  # else two scores tie
    differences = {"class scores": float(np.abs(found["class_scores"] - wanted["class_scores"]).max())}
    for name in ("boxes", "masks"):
        away = np.abs(found[name] - wanted[name])[same]
        differences[name] = float(away.max()) if away.size else 0.0
    if PIXELS in expected:
        differences["pasted pixels"] = float((found[PIXELS] != wanted[PIXELS])[same].mean())
    if not all(value <= TOLERANCES[name] for name, value in differences.items()):
        raise UserError(f"{graph.name}: ONNX Runtime computes something else than torch: {differences}")
    return differences
