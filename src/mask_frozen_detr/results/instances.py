"""What a prediction is: the instances of one image, in whichever form the user wants them.

Letters: N instances, H × W image.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mask_frozen_detr.results.contours import trace_contours
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle, rle_to_crop

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Instances:
    """The instances of one image, in its own pixels. Indexing gives `Instances` again.

    boxes: (N, 4) float32, x1, y1, x2, y2.
    scores: (N,) float32, the masks' scores (equation 2 or 13).
    class_scores: (N,) float32, the detector's own scores, which box AP goes by.
    labels: (N,) int64, class indices of the detector.
    names: N class names.
    crops: N binary masks, each a piece of the image.
    height, width: H, W.
    probability_crops: N probability masks, or None where they were not kept.
    tracks: (N,) int64, numbers that objects of a film keep from frame to frame, -1 where there is none yet; None where
        nothing was followed.
    Raises ValueError where these are not all N long.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    crops: list[Crop]
    height: int
    width: int
    probability_crops: list[Crop] | None = None
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        fields = ("boxes", "scores", "class_scores", "labels", "names", "crops")
        lengths = {field: len(getattr(self, field)) for field in fields}
        if self.probability_crops is not None:
            lengths["probability_crops"] = len(self.probability_crops)
        if self.tracks is not None:
            lengths["tracks"] = len(self.tracks)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"instances: found unequal lengths {lengths}, expected one entry an instance")

    @classmethod
    def empty(cls, height: int, width: int) -> "Instances":
        """No instance at all."""
        none = np.zeros(0, np.float32)
        return cls(none.reshape(0, 4), none, none, none.astype(np.int64), [], [], height, width, [])

    @classmethod
    def joined(cls, parts: "Sequence[Instances]") -> "Instances":
        """The instances of one image, part after part; probabilities are kept where every part has them.

        Raises ValueError where there is no part.
        """
        if not parts:
            raise ValueError("parts: found none, expected at least one")
        maps = [part.probability_crops for part in parts if part.probability_crops is not None]
        return cls(
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            class_scores=np.concatenate([part.class_scores for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            names=[name for part in parts for name in part.names],
            crops=[crop for part in parts for crop in part.crops],
            height=parts[0].height,
            width=parts[0].width,
            probability_crops=[crop for one in maps for crop in one] if len(maps) == len(parts) else None,
        )

    @classmethod
    def from_coco(
        cls, entries: Sequence[Mapping[str, Any]], names: Mapping[int, str], height: int, width: int
    ) -> "Instances":
        """The instances of one H × W image, of entries as `to_coco` makes them; names: category id → name.

        "class_score" is the detector's own score where an entry has one. labels: the category ids.
        """
        boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return cls(
            boxes=boxes,
            scores=np.array([entry["score"] for entry in entries], np.float32),
            class_scores=np.array([entry.get("class_score", entry["score"]) for entry in entries], np.float32),
            labels=np.array([entry["category_id"] for entry in entries], np.int64),
            names=[names[entry["category_id"]] for entry in entries],
            crops=[rle_to_crop(entry["segmentation"]) for entry in entries],
            height=height,
            width=width,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Instances":
        """Some of the instances: a number, a slice, numbers in any order, or (N,) bool."""
        if not isinstance(index, slice) and not np.size(index):
            index = slice(0)  # an empty list has no integer type
        which = np.atleast_1d(np.arange(len(self))[index])
        maps = self.probability_crops
        return Instances(
            boxes=self.boxes[which],
            scores=self.scores[which],
            class_scores=self.class_scores[which],
            labels=self.labels[which],
            names=[self.names[i] for i in which],
            crops=[self.crops[i] for i in which],
            height=self.height,
            width=self.width,
            probability_crops=None if maps is None else [maps[i] for i in which],
            tracks=None if self.tracks is None else self.tracks[which],
        )

    def above(self, score_threshold: float) -> "Instances":
        """The instances whose score is `score_threshold` or more."""
        return self[self.scores >= score_threshold]

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool, made anew at each call: N bytes a pixel of the image."""
        return self._full(self.crops, np.dtype(bool))

    @property
    def probabilities(self) -> np.ndarray:
        """(N, H, W) float32, made anew at each call. Raises ValueError where they were not kept."""
        if self.probability_crops is None:
            raise ValueError("the probability maps were not kept: predict with `probabilities=True`")
        return self._full(self.probability_crops, np.dtype(np.float32))

    def to_rle(self) -> list[dict]:
        """The masks as COCO's compressed run lengths, {"size": [H, W], "counts": str}."""
        made: dict[int, dict] = {}  # a query found under several classes shares one crop
        for crop in self.crops:
            if id(crop) not in made:
                made[id(crop)] = crop_to_rle(crop, self.height, self.width)
        return [made[id(crop)] for crop in self.crops]

    def to_polygons(self) -> list[list[np.ndarray]]:
        """The outer contours of each instance's parts, (P, 2) pixel corners x, y; holes are left out."""
        return [
            [contour + np.array([crop.x, crop.y]) for contour in trace_contours(crop.values)[0]] for crop in self.crops
        ]

    def to_supervision(self) -> "supervision.Detections":
        """The instances as `supervision.Detections`: xyxy, mask, confidence, class_id, tracker_id, data["class_name"].

        Raises ImportError, naming the extra to install, where that library is missing.
        """
        import warnings

        with warnings.catch_warnings():  # it warns on import where OpenCV is not installed
            warnings.simplefilter("ignore", UserWarning)
            try:
                import supervision
            except ImportError as error:
                raise ImportError(
                    "to_supervision: the library supervision is not installed; "
                    "pip install 'mask-frozen-detr[supervision]'"
                ) from error

        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.tracks,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_coco(
        self,
        image_id: int | str,
        category_ids: Sequence[int | None] | Mapping[int, int] | None = None,
        class_scores: bool = False,
    ) -> list[dict]:
        """Entries of a COCO results file, with boxes x, y, w, h and masks as run lengths.

        category_ids: category id of each class index, by position or by key; a class that it lacks, or gives None,
            is left out. Without it, class indices stand as category ids.
        class_scores: the detector's own score instead of the mask's, as box AP wants it.
        """
        category_of: Mapping[int, int | None] | None = (
            category_ids if isinstance(category_ids, Mapping) or category_ids is None else dict(enumerate(category_ids))
        )
        scores = self.class_scores if class_scores else self.scores
        entries = []
        for label, box, score, rle in zip(self.labels, self.boxes, scores, self.to_rle(), strict=True):
            category = int(label) if category_of is None else category_of.get(int(label))
            if category is None:
                continue
            x1, y1, x2, y2 = (float(side) for side in box)
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                    "segmentation": rle,
                }
            )
        return entries

    def summary(self) -> str:
        """How many of which, most first: "3 person, 1 dog"."""
        counts = Counter(self.names).most_common()
        return ", ".join(f"{count} {name}" for name, count in counts) or "no instance"

    def _full(self, crops: list[Crop], dtype: np.dtype) -> np.ndarray:
        canvas = np.zeros((len(crops), self.height, self.width), dtype)
        for picture, crop in zip(canvas, crops, strict=True):
            h, w = crop.values.shape
            picture[crop.y : crop.y + h, crop.x : crop.x + w] = crop.values
        return canvas
