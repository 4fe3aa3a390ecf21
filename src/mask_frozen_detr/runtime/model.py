"""`OnnxModel`: an exported folder as a model that predicts as `MaskFrozenDetr` does, without torch.

Letters: B images, h × w pixels of prepared pictures, N detections of the graph, r side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.config import Runtime
from mask_frozen_detr.results.assemble import assemble
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.predictor import Predictor
from mask_frozen_detr.runtime.description import DESCRIPTION_FILE, GRAPH_FILE, InputSize, read_description
from mask_frozen_detr.runtime.sessions import open_session

IMAGES, THRESHOLD, SIZES, PICTURE = "images", "score_threshold", "sizes", "picture"


@dataclass(frozen=True)
class Outputs:
    """What the graph gives of B images, N rows each, best class score first.

    boxes: (B, N, 4), x0, y0, x1, y1 as parts of the picture's width and height. scores: (B, N), final. class_scores:
    (B, N), the detector's own. labels: (B, N). queries: (B, N); rows of one query share their mask. masks:
    (B, N, r, r) probabilities over the box within the picture; 0 for rows at or below the threshold.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_scores: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    masks: np.ndarray


class OnnxModel(Predictor[np.ndarray]):
    """A folder that `mask-frozen-detr export` wrote.

    runtime: the library that runs the graph, "onnxruntime" or "openvino". threads: that it may use; None leaves the
    number to it. Raises UserError for a folder that is none, files that do not belong together, and a runtime that is
    missing or cannot take the graph.
    """

    def __init__(self, folder: str | Path, runtime: Runtime = "onnxruntime", threads: int | None = None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: there is no such folder, expected one with {DESCRIPTION_FILE}")
        description = read_description(self.folder)
        self.description, self.runtime = description, runtime
        self.classes, self.held_out = description.classes, description.held_out
        self.max_detections = description.max_detections
        self._session = open_session(self.folder / GRAPH_FILE, description.opset, runtime, threads)

    @property
    def detector_names(self) -> list[str]:
        """The detector's own class names, "" where it has none."""
        return self.description.class_names

    @property
    def supervised(self) -> str:
        """How the masks were trained, in a sentence, where not on drawn masks alone."""
        return self.description.supervision

    @property
    def preprocessing(self) -> Preparation:
        """From an RGB picture to what `segment` takes of it."""
        return self.description.preprocessing

    def check(self, score_threshold: Any, max_detections: Any) -> None:
        """Raises UserError for a threshold that is none, and for detections that the graph does not give."""
        super().check(score_threshold, max_detections)
        if max_detections > self.description.detections:
            raise UserError(
                f"max_detections: found {max_detections}, but the graph gives {self.description.detections}; export "
                f"with --max-detections {max_detections}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """All of the model that decides what is found in a picture."""
        return {"exported": self.description.checksums, "runtime": self.runtime, "class_names": self.class_names}

    def run(self, prepared: Sequence[np.ndarray] | np.ndarray, score_threshold: float = 0.0) -> Outputs:
        """The graph on prepared pictures, (3, h, w) each, or on their batch. Raises UserError for a shape that it does
        not take.

        score_threshold: no masks are made where the class score is not above it.
        """
        inputs = feed(self.description.input, prepared, score_threshold)
        fault = self.description.input.misfit(inputs[IMAGES].shape)
        if fault is not None:
            raise UserError(
                f"{self.folder / GRAPH_FILE}: {fault}; prepare pictures with `OnnxModel.prepare`, which makes them of "
                "a size that the graph takes"
            )
        found = self._session(inputs)
        return Outputs(**{entry.name: found[entry.name] for entry in fields(Outputs)})

    def segment(
        self,
        prepared: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        max_detections: int = 100,
        score_threshold: float = 0.0,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared pictures, see `Predictor.segment`; classes are chosen from what the graph finds.

        Pictures go one by one where the graph takes no more, or where they differ in size and it knows no padding.
        Raises UserError for more detections than the graph gives.
        """
        self.check(score_threshold, max_detections)
        taken = self.description.input
        together = taken.batch is None and (taken.padded or len({one.shape for one in prepared}) == 1)
        step = len(prepared) if together else 1
        found: list[Instances] = []
        for start in range(0, len(prepared), step):
            batch = prepared[start : start + step]
            outputs = self.run(batch, score_threshold)
            for b in range(len(batch)):
                size = sizes[len(found)]
                found.append(self._instances(outputs, b, size, max_detections, score_threshold, probabilities))
        return found if classes is None else [one[np.isin(one.labels, classes)] for one in found]

    def _instances(
        self, outputs: Outputs, b: int, size: tuple[int, int], count: int, score_threshold: float, keep: bool
    ) -> Instances:
        rows = np.flatnonzero(outputs.class_scores[b, :count] > score_threshold)
        height, width = size
        _, first, which = np.unique(outputs.queries[b, rows], return_index=True, return_inverse=True)
        boxes, sides = outputs.boxes[b, rows], np.array([width, height, width, height], np.float32)
        return assemble(
            boxes=boxes * sides,
            class_scores=outputs.class_scores[b, rows],
            labels=outputs.labels[b, rows],
            masks=outputs.masks[b, rows[first]],
            frames=boxes[first].clip(0, 1) * sides,
            which=which,
            scores=outputs.scores[b, rows] if self.description.mask_scoring else None,
            size=size,
            class_names=self.class_names,
            keep_probabilities=keep,
        )


def feed(
    taken: InputSize, prepared: Sequence[np.ndarray] | np.ndarray, score_threshold: float
) -> dict[str, np.ndarray]:
    """What a graph takes for prepared pictures, (3, h, w) each; those of a graph that takes padded ones are padded."""
    inputs = {THRESHOLD: np.array(score_threshold, np.float32)}
    if not taken.padded:
        return {IMAGES: np.stack(list(prepared)), **inputs}
    sizes = np.array([one.shape[1:] for one in prepared], np.int64)
    padded = [_pad(one, taken.height, taken.width) for one in prepared]
    return {IMAGES: np.stack(padded), SIZES: sizes, **inputs}


def _pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(3, h, w) at the top left of (3, height, width) zeros, or as it is where it is larger: that is refused later."""
    h, w = pixels.shape[1:]
    return np.pad(pixels, ((0, 0), (0, max(0, height - h)), (0, max(0, width - w))))
