"""`export_model`: a model as an ONNX graph, compared with torch, in a folder with all that is needed to run it."""

import importlib.metadata
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mask_frozen_detr.errors import UserError, check_number, printable, reason
from mask_frozen_detr.export.graph import OUTPUTS, MaskGraph
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.export.tracing import traceable
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.machine.files import write_folder_atomic, write_json_atomic
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.runtime.description import DESCRIPTION_FILE, GRAPH_FILE, MADE_BY, ExportedModel, InputSize
from mask_frozen_detr.runtime.model import IMAGES, THRESHOLD
from mask_frozen_detr.runtime.sessions import open_session

OPSETS = (18, 23)  # lowest and highest that are offered
LARGEST_FILE = 1_900_000_000  # bytes of weights: a file of ONNX holds 2 GB
METADATA = "mask_frozen_detr"  # key in the graph
BATCH = 2  # of the pictures that the trace is made with
TOLERANCE = 1e-3  # of scores, boxes (of the picture's side) and probabilities, beside torch


@dataclass(frozen=True)
class Exported:
    """Where the model lies, and the largest difference from torch in class scores, boxes and mask probabilities."""

    folder: Path
    input: InputSize
    bytes: int
    differences: dict[str, float]

    def report(self) -> str:
        batch = "any number of pictures" if self.input.batch is None else f"{self.input.batch} picture at a time"
        worst = ", ".join(f"{name} {value:.1g}" for name, value in self.differences.items())
        return (
            f"{self.folder / GRAPH_FILE}: {self.bytes / 1e6:.1f} MB, {batch} of {self.input.width} × "
            f"{self.input.height} pixels\nONNX Runtime beside torch, largest differences: {worst}"
        )


def export_model(
    model: MaskFrozenDetr, folder: str | Path, max_detections: int | None = None, opset: int = 18
) -> Exported:
    """Write `model` as a folder for `mask_frozen_detr.runtime.OnnxModel`: model.onnx and model.json.

    max_detections: rows of the graph's outputs; None takes what the run was trained with. opset: of ONNX.
    The graph is run by ONNX Runtime and compared with torch before the folder takes its place.
    Raises UserError, before the work starts, where the model or its pre-processing cannot be exported, packages are
    missing, or the folder holds anything else than an earlier export; and where the graph differs from torch.
    """
    folder = Path(folder)
    max_detections = model.max_detections if max_detections is None else max_detections
    check_number("max_detections", max_detections, least=1, whole=True)
    check_number("opset", opset, *OPSETS, whole=True)
    check_packages()
    check_target(folder)
    check_exportable(model)
    name = model.detector.info.identity.name
    preparation = portable(model.detector.info.preprocessing, name)
    if preparation.fit != "squash":
        raise UserError(
            f"{name}: cannot be exported yet: it takes pictures of any size, expected a detector of one size"
        )
    height, width = preparation.size
    size = InputSize(batch=None, height=height, width=width)
    graph = MaskGraph(model.cpu(), max_detections).eval()
    images = _samples(BATCH, height, width)
    with torch.no_grad(), _quiet():
        expected = graph(images, torch.tensor(0.0))
        program, size = _traced(graph, images, size, opset, name)
    detections = expected[0].shape[1]
    described = ExportedModel(
        version=importlib.metadata.version("mask-frozen-detr"),
        opset=opset,
        input=size,
        detections=detections,
        mask_side=model.network.config.roi_size,
        mask_threshold=MASK_THRESHOLD,
        mask_scoring=model.network.config.mask_scoring,
        preprocessing=preparation,
        class_names=list(model.detector.info.class_names),
        classes=model.classes,
        max_detections=min(max_detections, detections),
        detector=model.detector.info.identity.as_dict(),
        checksums={},
        held_out=model.held_out,
        supervision=model.supervised,
    )
    differences: dict[str, float] = {}

    def write(place: Path) -> None:
        _save(program, place / GRAPH_FILE, described)
        differences.update(_compare(place / GRAPH_FILE, opset, images[: size.batch], expected))
        written = replace(described, checksums={GRAPH_FILE: hash_file(place / GRAPH_FILE)})
        write_json_atomic(place / DESCRIPTION_FILE, written.as_json())

    write_folder_atomic(folder, write)
    return Exported(folder, size, (folder / GRAPH_FILE).stat().st_size, differences)


def check_packages() -> None:
    """Raises UserError where a package that export needs is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"export: the package {name} is missing ({reason(error)}); pip install 'mask-frozen-detr[onnx]'"
            ) from error


def check_target(folder: Path) -> None:
    """Raises UserError where an export would replace anything but an earlier one."""
    if not folder.exists():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: is no folder, expected a new one, or one that holds an earlier export")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    ours: set[str] = set()
    if DESCRIPTION_FILE in names:
        saved = read_json_object(folder / DESCRIPTION_FILE)
        if saved.get("made_by") == MADE_BY and isinstance(saved.get("checksums"), dict):
            ours = {DESCRIPTION_FILE, *saved["checksums"]}
    if foreign := sorted(names - ours):
        raise UserError(f"{folder}: holds {printable(foreign[0])}, which no export wrote; name another --output")


def check_exportable(model: MaskFrozenDetr) -> None:
    """Raises UserError, with the reason, where a model cannot be exported."""
    info, config = model.detector.info, model.network.config
    why = None
    if not config.roi_align:
        why = "its masks are made without RoIAlign and cover the whole picture (Table 1), not a box each"
    elif config.image_encoder == "swin":
        why = "the shifted windows of its image encoder cannot be traced"
    elif info.identity.prompt is not None:
        why = "its classes come from a prompt, whose tokens are read by Python code"
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    if why is None and weights > LARGEST_FILE:
        why = f"its weights take {weights / 1e9:.1f} GB, and one file of ONNX holds 2 GB"
    if why is not None:
        raise UserError(f"{info.identity.name}: cannot be exported: {why}")


def _traced(graph: MaskGraph, images: torch.Tensor, size: InputSize, opset: int, name: str) -> tuple[Any, InputSize]:
    """The graph as a program of ONNX, for any number of pictures where that can be traced, else for one."""
    threshold = torch.tensor(0.0)
    with traceable(graph):
        try:
            captured = torch.export.export(
                graph, (images, threshold), dynamic_shapes=({0: torch.export.Dim("batch")}, None), strict=False
            )
        except Exception as dynamic:  # whatever a family's code brings about in a trace
            try:
                captured = torch.export.export(graph, (images[:1], threshold), strict=False)
            except Exception as error:
                raise UserError(f"{name}: cannot be exported: {reason(error)}; {reason(dynamic)}") from error
            size = replace(size, batch=1)
        try:
            program = torch.onnx.export(
                captured,
                dynamo=True,
                opset_version=opset,
                input_names=[IMAGES, THRESHOLD],
                output_names=list(OUTPUTS),
                optimize=False,  # runtimes do so themselves when they load it
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"{name}: an operator of it has no counterpart in ONNX: {reason(error)}") from error
    return program, size


def _save(program: Any, path: Path, described: ExportedModel) -> None:
    """With what it is in its metadata, and 0 as the threshold of who gives none."""
    import onnx

    proto = program.model_proto
    content = {key: value for key, value in described.as_json().items() if key != "checksums"}
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(content, ensure_ascii=False)})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.0, np.float32), THRESHOLD))
    path.write_bytes(proto.SerializeToString())


def _compare(graph: Path, opset: int, images: torch.Tensor, expected: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Largest differences from torch. Raises UserError where they are more than rounding explains."""
    found = open_session(graph, opset)({IMAGES: images.numpy(), THRESHOLD: np.array(0, np.float32)})
    wanted = {name: value[: len(images)].numpy() for name, value in zip(OUTPUTS, expected, strict=True)}
    same = (found["queries"] == wanted["queries"]) & (found["labels"] == wanted["labels"])  # else two scores tie
    differences = {"class scores": float(np.abs(found["class_scores"] - wanted["class_scores"]).max())}
    for name in ("boxes", "masks"):
        away = np.abs(found[name] - wanted[name])[same]
        differences[name] = float(away.max()) if away.size else 0.0
    if not all(value <= TOLERANCE for value in differences.values()):
        raise UserError(f"{graph.name}: ONNX Runtime computes something else than torch: {differences}")
    return differences


def _samples(count: int, height: int, width: int) -> torch.Tensor:
    """(count, 3, height, width): smooth noise, no two pictures alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, max(2, height // 16), max(2, width // 16), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and onnxscript tell about their own workings."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
