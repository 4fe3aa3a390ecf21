"""What predicts: a run in torch, or an exported model."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image

from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.results.instances import Instances


class Predictor(Protocol):
    """max_detections: an image, where nothing else is asked for."""

    @property
    def max_detections(self) -> int: ...

    @property
    def class_names(self) -> list[str]:
        """One a class index, "" where it is unknown."""

    def class_indices(self, classes: Sequence[str] | None = None) -> list[int] | None:
        """Indices of classes by name; see `data.classes.class_indices`."""

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        *,
        classes: Sequence[str] | None = None,
    ) -> Any:
        """Instances of one image, or a list of them for several."""

    def prepare(self, image: Any) -> Any:
        """One image, of any kind that `predict` takes, ready for the model."""

    def predict_prepared(
        self,
        pictures: Sequence[Any],
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared images."""

    def check(self, score_threshold: Any, max_detections: Any) -> None:
        """Raises UserError for a threshold or a number of detections that the model cannot be asked for."""

    def fingerprint(self) -> dict[str, Any]:
        """All of the model that decides what is found in a picture, for JSON."""


class Segmenter(Predictor, Protocol):
    """What can be evaluated.

    classes: how the data of the training calls the detector's classes; None where it is not known. held_out: which of
    its images were kept for val, where it had no val split.
    """

    @property
    def classes(self) -> RunClasses | None: ...

    @property
    def held_out(self) -> HeldOut | None: ...

    @property
    def detector_names(self) -> list[str]:
        """The detector's own class names, "" where it has none."""

    @property
    def supervised(self) -> str:
        """How the masks were trained, in a sentence, where not on drawn masks alone."""

    @property
    def preprocessing(self) -> Callable[[Image.Image], Any]:
        """From an RGB picture to what `segment` takes of it."""

    def segment(
        self,
        prepared: Sequence[Any],
        sizes: Sequence[tuple[int, int]],
        max_detections: int,
        score_threshold: float = 0.0,
    ) -> list[Instances]:
        """Instances of prepared pictures, in pixels of the originals, whose (height, width) are `sizes`.

        Detections whose class score is not above the threshold are left out; whatever their final score is, the others
        are there.
        """
