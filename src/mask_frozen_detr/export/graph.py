"""The module that is exported: a model with its post-processing, from prepared pixels to tensors of known shapes.

Detector, mask network and scoring are those that run everywhere; what stands here is which queries get masks, told
as data instead of as lists. Letters: B images, N detections of an image, M masks, r side of a mask, K classes.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.inference import best_pairs

OUTPUTS = ("boxes", "scores", "class_scores", "labels", "queries", "masks")
PIXELS = "pixels"  # the output of a graph that pastes


class MaskGraph(nn.Module):
    """A detector and its mask network as they are exported, with `detections` rows for an image.

    There are fewer where the detector does not have so many pairs of query and class.
    """

    def __init__(self, model: MaskFrozenDetr, detections: int):
        super().__init__()
        self.detector, self.network, self.detections = model.detector, model.network, detections
        self.classes = model.class_indices()  # those that were chosen for the run's training

    def forward(
        self, images: Tensor, score_threshold: Tensor, sizes: Tensor | None = None, picture: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The model from prepared images to what `OUTPUTS` names.

        images: (B, 3, H, W). score_threshold: (), masks are made for class scores above it. sizes: (B, 2), height and
        width of what is no padding, at the top left of each image; None: nothing is padding. picture: (2,), height
        and width to paste masks at; None: they are not pasted.

        Returns `OUTPUTS`, best class score first: boxes (B, N, 4) as x0, y0, x1, y1 in [0, 1] of the image; scores
        (B, N), of equation 13, or of equation 2 with the mean taken over the mask's own cells; class_scores, labels,
        queries (B, N); masks (B, N, r, r), probabilities over the box within the image, 0 where none was made. With
        `picture` also `PIXELS`, (B, N, height, width), True where a pasted mask is.
        """
        pixel_mask = None if sizes is None else mask_of(sizes, images.shape[2], images.shape[3])
        detections = self.detector(images, pixel_mask)
        rule = self.detector.info.score_rule
        class_scores, queries, labels = best_pairs(detections.logits, rule, self.detections, self.classes)
        image_index, place, row, made = masks_wanted(queries, class_scores, score_threshold)
        output = self.network(detections, pixel_mask, image_index, queries[image_index, place])
        masks = output.logits.float().sigmoid()[row] * made[:, :, None, None]
        if output.iou is not None:
            factors = output.iou.float()[row].gather(2, labels[:, :, None])[:, :, 0] * made
        else:
            inside = (masks > MASK_THRESHOLD).to(masks)
            factors = (masks * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        boxes = box_convert(detections.boxes.float(), "cxcywh", "xyxy")
        boxes = boxes.gather(1, queries[:, :, None].expand(-1, -1, 4))
        found = boxes, class_scores * factors, class_scores, labels, queries, masks
        return found if picture is None else (*found, pasted(masks, boxes, picture))


def mask_of(sizes: Tensor, height: int, width: int) -> Tensor:
    """(B, 2) heights and widths → (B, height, width), 1 within them."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None]).long()


def masks_wanted(queries: Tensor, scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which masks to make: one a query with a score above the threshold, however many classes it appears under.

    An image's best detection always gets one, so that no tensor of a graph is ever empty.
    queries, scores: (B, N), best first. Returns the image and the place in it of each of the M masks, (M,) each; for
    each detection which of them is its own, (B, N); and whether it has one, (B, N).
    """
    place = torch.arange(queries.shape[1], device=queries.device)
    first = (queries[:, :, None] == queries[:, None]).int().argmax(2)  # (B, N): where the query appears first
    above = scores > threshold
    wanted = (first == place) & (above | (place == 0))
    number = (wanted.flatten().cumsum(0) - 1).view(wanted.shape)
    image_index, places = wanted.nonzero().unbind(1)
    return image_index, places, number.gather(1, first), above


def pasted(masks: Tensor, boxes: Tensor, picture: Tensor) -> Tensor:
    """Equation 4's paste, as `results.paste` does it for one mask, as products of matrices.

    masks: (B, N, r, r) probabilities over boxes (B, N, 4) in [0, 1]. picture: (2,), height and width of all images.
    Returns (B, N, height, width), True where the probability is above the threshold.
    """
    height, width = picture.tolist()
    frames = boxes.clamp(0, 1) * picture.flip(0).repeat(2)
    rows = _blend(frames[..., 1, None], frames[..., 3, None], masks.shape[2], height)
    columns = _blend(frames[..., 0, None], frames[..., 2, None], masks.shape[3], width)
    return rows @ masks @ columns.transpose(2, 3) > MASK_THRESHOLD


def _blend(low: Tensor, high: Tensor, cells: int, pixels: int) -> Tensor:
    """(B, N, pixels, cells): how much each cell from `low` to `high` (B, N, 1) counts for each pixel's centre."""
    centres = torch.arange(pixels, device=low.device) + 0.5
    source = ((centres - low) / (high - low).clamp(min=1e-6) * cells - 0.5).clamp(0, cells - 1)
    near = (1 - (source[..., None] - torch.arange(cells, device=low.device)).abs()).clamp(min=0)
    return near * ((centres >= low) & (centres < high))[..., None]
