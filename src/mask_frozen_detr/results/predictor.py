"""What predicts: a run in torch, or an exported model."""

from collections.abc import Sequence
from typing import Any, Protocol

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

    def fingerprint(self) -> dict[str, Any]:
        """All of the model that decides what is found in a picture, for JSON."""
