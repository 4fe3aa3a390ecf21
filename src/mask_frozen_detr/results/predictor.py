"""`Predictor`: from pictures to instances, whoever runs the model, torch or an exported model's runtime."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from mask_frozen_detr.data.classes import RunClasses, class_indices
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.data.inputs import is_one_picture, to_picture
from mask_frozen_detr.results.assemble import check_thresholds
from mask_frozen_detr.results.instances import Instances

Pixels = TypeVar("Pixels")  # a tensor, or an array


@dataclass(frozen=True)
class PreparedPicture(Generic[Pixels]):
    """What is made of a picture: (3, h, w) pixels as the detector takes them, unpadded; size: its (height, width)."""

    pixels: Pixels
    size: tuple[int, int]


class Predictor(ABC, Generic[Pixels]):
    """What predicts and can be evaluated.

    classes: how the data of the training calls the detector's classes; None where it is not known. held_out: which of
    its images were kept for val, where it had no val split. max_detections: detections an image where nothing else is
    asked for: what the run was trained with. mirror: masks are the mean with a look in the mirror.
    """

    classes: RunClasses | None
    held_out: HeldOut | None
    max_detections: int
    mirror: bool = False

    @property
    @abstractmethod
    def detector_names(self) -> list[str]:
        """The detector's own class names, "" where it has none."""

    @property
    @abstractmethod
    def preprocessing(self) -> Callable[[Image.Image], Pixels]:
        """The detector's own, from an RGB picture to what `segment` takes of it."""

    @property
    @abstractmethod
    def supervised(self) -> str:
        """How the masks were trained, in a sentence, where not on drawn masks alone."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All of the model that decides what is found in a picture, as JSON, here and now: the precision as well."""

    @abstractmethod
    def segment(
        self,
        prepared: Sequence[Pixels],
        sizes: Sequence[tuple[int, int]],
        max_detections: int = 100,
        score_threshold: float = 0.0,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared pictures, in pixels of the originals, whose (height, width) are `sizes`.

        Detections whose class score is not above the threshold are left out; whatever their final score is, the others
        are there. classes: indices of those to look for, None for all.
        """

    def side_by_side(self, batch: int) -> "list[Predictor[Pixels]]":
        """Equal predictors, this one first, that compute at once in less time than one after the other.

        batch: pictures that each takes at once. By default there is no other.
        """
        return [self]

    def forks(self, batch: int) -> int:
        """How many forked processes, each with a core, take less time together than this one with all of them.

        batch: pictures that each takes at once. 0, the default: it may not be forked, or gains nothing.
        """
        return 0

    @property
    def class_names(self) -> list[str]:
        """The detector's class names; of those without, what the run's training data calls them ("" if unknown)."""
        return self.detector_names if self.classes is None else self.classes.names(self.detector_names)

    def class_indices(self, classes: Sequence[str] | None = None) -> list[int] | None:
        """Indices of the classes of these names; without names, of those chosen for the run's training. None: all.

        Raises UserError for a name that no class has.
        """
        return class_indices(self.class_names, self.classes, classes)

    def check(self, score_threshold: Any, max_detections: Any) -> None:
        """Raises UserError for a threshold or a number of detections that the model cannot be asked for."""
        check_thresholds(score_threshold, max_detections)

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        *,
        classes: Sequence[str] | None = None,
    ) -> Any:
        """Instances of one image, or a list of them for a list, tuple or generator of images.

        images: paths, http and https addresses, encoded bytes and binary file objects (turned as their EXIF data says);
            PIL images of any mode, arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and tensors (1, H, W), (3, H, W)
            or (4, H, W), uint8, uint16, bool or floats in [0, 1], RGB or grey (as they lie).
        score_threshold: on the final score (equation 13, or 2), 0 to 1.
        max_detections: None takes what the run was trained with, else 100.
        probabilities: keep the probability maps too.
        classes: names of the classes to look for; None takes those that were chosen for the run's training, else all.
        Raises TypeError for what is no image, UserError for an image that cannot be read and for numbers without sense.
        """
        max_detections = self.max_detections if max_detections is None else max_detections
        self.check(score_threshold, max_detections)
        options = (score_threshold, max_detections, probabilities, self.class_indices(classes))
        if is_one_picture(images):
            return self.predict_prepared([self.prepare(images)], *options)[0]
        return [self.predict_prepared([self.prepare(image)], *options)[0] for image in images]

    def prepare(self, image: Any) -> PreparedPicture[Pixels]:
        """One image, of any kind that `predict` takes, ready for the model. Raises what `predict` raises for it."""
        picture = to_picture(image)
        return PreparedPicture(self.preprocessing(picture), (picture.height, picture.width))

    def predict_prepared(
        self,
        pictures: Sequence[PreparedPicture[Pixels]],
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared images, all at once where the model takes several; smaller ones are padded.

        classes: indices of those to look for, as `class_indices` gives them. Other arguments as for `predict`.
        """
        found = self.segment(
            [picture.pixels for picture in pictures],
            [picture.size for picture in pictures],
            self.max_detections if max_detections is None else max_detections,
            score_threshold,
            probabilities,
            classes,
        )
        return [instances.above(score_threshold) for instances in found]
