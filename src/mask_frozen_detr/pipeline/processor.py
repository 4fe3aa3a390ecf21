"""The detector's own pre-processing and the way from tensors to a label map, as an image processor of transformers.

Letters: B images, N queries, H × W an image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from mask_frozen_detr.results.instances import Instances


class MaskFrozenDetrImageProcessor(BaseImageProcessor):
    """What transformers' pipeline does before and after the model.

    preprocessing: the detector's, as a run folder describes it. score_rule: fields of `ScoreRule`. max_detections: an
    image, at most.
    """

    model_input_names = ["pixel_values", "pixel_mask"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self, preprocessing: dict[str, Any], score_rule: dict[str, Any], max_detections: int = 100, **others: Any
    ):
        super().__init__()
        self.preprocessing, self.score_rule, self.max_detections = preprocessing, score_rule, max_detections

    def __call__(self, images: Any, return_tensors: str | None = "pt", **ignored: Any) -> BatchFeature:  # type: ignore[override]
        """Images as `MaskFrozenDetr.predict` takes them, to pixel_values (B, 3, H, W) and pixel_mask (B, H, W).

        Raises UserError for an image that cannot be read.
        """
        from mask_frozen_detr.data.inputs import is_one_picture, to_picture
        from mask_frozen_detr.detectors.described import described_preprocessing
        from mask_frozen_detr.detectors.preprocessing import collate_images

        preprocess = described_preprocessing(self.preprocessing)
        pictures = [images] if is_one_picture(images) else list(images)
        pixel_values, pixel_mask = collate_images([preprocess(to_picture(picture)) for picture in pictures])
        return BatchFeature({"pixel_values": pixel_values, "pixel_mask": pixel_mask}, tensor_type=return_tensors)

    def preprocess(self, images: Any, **options: Any) -> BatchFeature:
        return self(images, **options)

    def post_process_instance_segmentation(
        self,
        outputs: ModelOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[dict[str, Any]]:
        """An image each: {"segmentation": (H, W) int32, 0 where nothing is, "segments_info": [{id, label_id, score}]}.

        outputs: a `MaskFrozenDetrOutput`, or what the pipeline made of one.
        threshold: on the final score (equation 13, or 2). mask_threshold: on a pixel's probability.
        overlap_mask_area_threshold: one label map has no place for masks that overlap. The better score takes the
            pixels; what keeps less than this share of its mask is left out.
        target_sizes: (height, width) of each image; None gives maps of the size of the model's input.
        """
        if target_sizes is None:
            target_sizes = [(int(height), int(width)) for width, height, *_ in outputs["extents"].tolist()]
        return [
            _label_map(self._instances(outputs, b, size, threshold), mask_threshold, overlap_mask_area_threshold)
            for b, size in enumerate(target_sizes)
        ]

    def _instances(self, outputs: ModelOutput, b: int, size: Sequence[int], threshold: float) -> "Instances":
        """The instances of image b, by the very functions of `MaskFrozenDetr.predict`, with probabilities."""
        from mask_frozen_detr.detectors.base import ScoreRule
        from mask_frozen_detr.results.inference import make_instances, top_detections

        logits: Tensor = outputs["logits"][b : b + 1].float().cpu()
        (top,) = top_detections(logits, ScoreRule(**self.score_rule), self.max_detections, threshold)
        queries, inverse = top.query_index.unique(return_inverse=True)
        height, width = (int(side) for side in size)
        ious = outputs.get("pred_ious")  # of an output that the pipeline took apart, what is None is gone
        scale = torch.tensor([width, height, width, height]) / outputs["extents"][b].cpu()
        return make_instances(
            outputs["pred_boxes"][b].float().cpu(),
            top,
            inverse,
            outputs["pred_masks"][b].float().sigmoid().cpu()[queries].numpy(),
            (outputs["frames"][b].float().cpu() * scale)[queries].numpy(),
            None if ious is None else ious[b].float().cpu()[queries],
            (height, width),
            [""] * logits.shape[-1],
            keep_probabilities=True,
        ).above(threshold)


def _label_map(instances: "Instances", mask_threshold: float, least_share: float) -> dict[str, Any]:
    """Best first: each takes what is left of its mask."""
    segmentation = np.zeros((instances.height, instances.width), np.int32)
    segments: list[dict[str, Any]] = []
    for crop, label, score in zip(
        instances.probability_crops or [], instances.labels.tolist(), instances.scores.tolist(), strict=True
    ):
        mask = crop.values > mask_threshold
        h, w = mask.shape
        piece = segmentation[crop.y : crop.y + h, crop.x : crop.x + w]
        visible = mask & (piece == 0)
        if not visible.any() or visible.sum() < least_share * mask.sum():
            continue
        piece[visible] = len(segments) + 1
        segments.append({"id": len(segments) + 1, "label_id": label, "score": round(score, 6)})
    return {"segmentation": torch.from_numpy(segmentation), "segments_info": segments}
