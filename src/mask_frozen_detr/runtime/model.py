"""`OnnxModel`: an exported folder as a model that predicts as `MaskFrozenDetr` does, without torch.

Letters: B images, h × w pixels of prepared pictures, N detections of the graph, r side of a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.classes import RunClasses, class_indices
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.data.inputs import is_one_picture, to_picture
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.config import Runtime
from mask_frozen_detr.results.assemble import assemble, check_thresholds
from mask_frozen_detr.results.instances import Instances
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


@dataclass(frozen=True)
class PreparedArray:
    """pixels: (3, h, w) float32 as the detector takes them. size: height and width of the picture itself."""

    pixels: np.ndarray
    size: tuple[int, int]


class OnnxModel:
    """A folder that `mask-frozen-detr export` wrote.

    runtime: the library that runs the graph, "onnxruntime" or "openvino". threads: that it may use; None leaves the
    number to it. Raises UserError for a folder that is none, files that do not belong together, and a runtime that is
    missing or cannot take the graph.
    """

    def __init__(self, folder: str | Path, runtime: Runtime = "onnxruntime", threads: int | None = None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: there is no such folder, expected one with {DESCRIPTION_FILE}")
        self.description, self.runtime = read_description(self.folder), runtime
        self._session = open_session(self.folder / GRAPH_FILE, self.description.opset, runtime, threads)

    @property
    def class_names(self) -> list[str]:
        """The detector's class names; of those without, what the run's training data calls them ("" if unknown)."""
        names = self.description.class_names
        return names if self.classes is None else self.classes.names(names)

    @property
    def classes(self) -> RunClasses | None:
        return self.description.classes

    @property
    def detector_names(self) -> list[str]:
        """The detector's own class names, "" where it has none."""
        return self.description.class_names

    @property
    def held_out(self) -> HeldOut | None:
        return self.description.held_out

    @property
    def supervised(self) -> str:
        """How the masks were trained, in a sentence, where not on drawn masks alone."""
        return self.description.supervision

    @property
    def preprocessing(self) -> Preparation:
        """From an RGB picture to what `segment` takes of it."""
        return self.description.preprocessing

    @property
    def max_detections(self) -> int:
        return self.description.max_detections

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        *,
        classes: Sequence[str] | None = None,
    ) -> Any:
        """Instances of one image, or a list of them for several; arguments and errors as of `MaskFrozenDetr.predict`.

        classes: names of those to keep of what the graph finds; None keeps those chosen for the run's training.
        Raises UserError as well for more detections than the graph gives.
        """
        max_detections = self.max_detections if max_detections is None else max_detections
        self.check(score_threshold, max_detections)
        options = (score_threshold, max_detections, probabilities, self.class_indices(classes))
        if is_one_picture(images):
            return self.predict_prepared([self.prepare(images)], *options)[0]
        return [self.predict_prepared([self.prepare(image)], *options)[0] for image in images]

    def class_indices(self, classes: Sequence[str] | None = None) -> list[int] | None:
        """Indices of classes by name, as `MaskFrozenDetr.class_indices`."""
        return class_indices(self.class_names, self.classes, classes)

    def prepare(self, image: Any) -> PreparedArray:
        """One image, of any kind that `predict` takes, ready for the graph. Raises what `predict` raises for it."""
        picture = to_picture(image)
        return PreparedArray(self.description.preprocessing(picture), (picture.height, picture.width))

    def predict_prepared(
        self,
        pictures: Sequence[PreparedArray],
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared images, in one run of the graph where it takes batches.

        classes: indices of those to keep, as `class_indices` gives them. Other arguments as for `predict`.
        """
        found = self.segment(
            [picture.pixels for picture in pictures],
            [picture.size for picture in pictures],
            self.max_detections if max_detections is None else max_detections,
            score_threshold,
            probabilities,
        )
        above = [instances.above(score_threshold) for instances in found]
        return above if classes is None else [one[np.isin(one.labels, classes)] for one in above]

    def check(self, score_threshold: Any, max_detections: Any) -> None:
        """Raises UserError for a threshold that is none, and for detections that the graph does not give."""
        check_thresholds(score_threshold, max_detections)
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
    ) -> list[Instances]:
        """Instances of prepared pictures, in pixels of the originals; sizes: their (height, width).

        Pictures go one by one where the graph takes no more, or where they differ in size and it knows no padding.
        Detections whose class score is not above `score_threshold` are left out; the final score is left to the caller
        to threshold.
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
        return found

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
