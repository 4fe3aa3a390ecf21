"""A run as a model of transformers: tensors in, tensors out, under the names that its DETRs use.

Letters: B images, N queries (the best of each image), K classes, r side of a mask, H × W padded input.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from mask_frozen_detr.pipeline.config import MaskFrozenDetrConfig

if TYPE_CHECKING:
    from mask_frozen_detr.model import MaskFrozenDetr


@dataclass
class MaskFrozenDetrOutput(ModelOutput):
    """The N queries of each image that score best.

    logits: (B, N, K), the detector's class logits.
    pred_boxes: (B, N, 4), the detector's boxes as cx, cy, w, h in [0, 1] of the unpadded image.
    pred_masks: (B, N, r, r), mask logits over `frames`.
    frames: (B, N, 4), what the masks cover, as x0, y0, x1, y1 in pixels of the padded input.
    extents: (B, 4), width, height, width, height of the unpadded input.
    pred_ious: (B, N, K), predicted mask IoU, or None without mask scoring.
    """

    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    pred_masks: Tensor | None = None
    frames: Tensor | None = None
    extents: Tensor | None = None
    pred_ious: Tensor | None = None


class MaskFrozenDetrForImageSegmentation(PreTrainedModel):
    """A loaded run, for `AutoModelForImageSegmentation` and the image segmentation pipeline."""

    config_class = MaskFrozenDetrConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MaskFrozenDetrConfig, model: "MaskFrozenDetr"):
        super().__init__(config)
        self.model = model

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *arguments: Any,
        config: MaskFrozenDetrConfig | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | torch.device | None = None,
        detector: str | None = None,
        revision: str | None = None,
        **ignored: Any,
    ) -> "MaskFrozenDetrForImageSegmentation":
        """A run folder, or a hub repository of one, as `MaskFrozenDetr.from_pretrained` loads it.

        dtype: a run computes in float32; `torch.autocast` around the pipeline is the way to half precision.
        device_map: one device. detector: where the run's detector lies now, if it has moved.
        Raises UserError, a ValueError, for what is no run and for other types of numbers.
        """
        from mask_frozen_detr.errors import UserError
        from mask_frozen_detr.model import MaskFrozenDetr

        if dtype not in (None, "auto", "float32", torch.float32):
            raise UserError(
                f"dtype: found {dtype}, expected float32: for half precision call the pipeline within torch.autocast"
            )
        model = MaskFrozenDetr.from_pretrained(pretrained_model_name_or_path, detector, revision, device=device_map)
        if config is None:
            config = MaskFrozenDetrConfig.from_pretrained(pretrained_model_name_or_path, revision=revision or "main")
        return cls(config, model).eval()

    def save_pretrained(self, save_directory: Any, **ignored: Any) -> None:  # type: ignore[override]
        """Writes a run folder (`MaskFrozenDetr.save_pretrained`): the frozen weights stay where they are."""
        self.model.save_pretrained(save_directory)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **ignored: Any) -> MaskFrozenDetrOutput:
        """(B, 3, H, W) pre-processed images and their (B, H, W) mask, 1 = image; None: nothing is padded."""
        from mask_frozen_detr.ops.padding import extents

        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.long)
        detector, network = self.model.detector, self.model.network.eval()
        detections = detector(pixel_values, pixel_mask)
        # A pair of query and class among the best N has its query among the best N queries.
        best = detector.info.score_rule.scores(detections.logits.float()).amax(-1)  # (B, Q)
        count = min(self.model.max_detections, best.shape[1])
        chosen = best.topk(count, dim=1).indices.sort(dim=1).values  # (B, N)
        image_index = torch.arange(len(chosen), device=chosen.device).repeat_interleave(count)
        output = network(detections, pixel_mask, image_index, chosen.flatten())
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        return MaskFrozenDetrOutput(
            logits=detections.logits[rows, chosen],
            pred_boxes=detections.boxes[rows, chosen],
            pred_masks=output.logits.unflatten(0, (-1, count)),
            frames=output.frames.unflatten(0, (-1, count)),
            extents=extents(pixel_mask).repeat(1, 2),
            pred_ious=None if output.iou is None else output.iou.unflatten(0, (-1, count)),
        )
