"""Where a frozen detector sees an object that it was given as a box (not in the paper).

The class score of the query that fits the box depends on some cells of the detector's maps more than on others. How
much is told by gradient times activation, as in Grad-CAM (Selvaraju et al., ICCV 2017), but cell by cell and whatever
its sign, of C₁, which is the finest map. The picture around a box is cut out and enlarged before, so that a small
object, too, covers many cells. Nothing of it comes from colours alone, so it tells what they do not.

Letters: M objects of an image, V cells a side of what is told of each.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, roi_align

from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.detectors.base import Detections, FrozenDetector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.checksums import hash_content
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.given_boxes import choose_queries
from mask_frozen_detr.training.pseudo_masks.soft_cut import Box, corners, inside_image

SIDE = 28  # V
AROUND = (1.4, 2.0)  # sides of what is cut out, in longer sides of the box: what both tell is averaged
SMALLEST = 32.0  # pixels a side of what is cut out: less has nothing to tell
SHOWN = 512  # pixels of the longer side of a cut, for detectors that take any size; others resize it themselves
NARROWEST = 192  # pixels of its shorter side
AT_ONCE = 4  # cuts that the detector looks at side by side
FLOOR = 0.1  # of the mean: cells that the score does not depend on are unlikely, not impossible


class Evidence:
    """Asks a frozen detector about objects. detector: as it is trained on. index_of: class indices by category id."""

    def __init__(self, detector: FrozenDetector, index_of: Mapping[int, int]):
        self.detector, self.index_of = detector.with_finer_look(False), index_of
        info = self.detector.info
        self.name = hash_content(
            {
                "weights": info.identity.weights,
                "prompt": info.identity.prompt,
                "preprocessing": info.preprocessing.describe(),
            }
        )

    def label(self, annotation: Annotation) -> int:
        """The object's class index, `UNKNOWN` where the detector has no such class."""
        return self.index_of.get(annotation.category_id, UNKNOWN)

    def of(self, image: Image.Image, objects: Sequence[Annotation]) -> np.ndarray:
        """Log-odds that each cell is the object's, as far as the detector tells: of mean 0 and deviation 1 an object.

        image: RGB, upright as its annotations. objects: M of them, whose boxes lie at least partly within it.
        Returns: (M, V, V) float32, over the part of each box within the image.
        """
        parts = [objects[start : start + AT_ONCE] for start in range(0, len(objects), AT_ONCE)]
        told = [torch.stack([self._told(image, part, around) for around in AROUND]).mean(0) for part in parts]
        return _standardised(torch.cat(told)).numpy() if told else np.zeros((0, SIDE, SIDE), np.float32)

    def _told(self, image: Image.Image, objects: Sequence[Annotation], around: float) -> Tensor:
        preprocessing, cuts, boxes = self.detector.info.preprocessing, [], []
        for annotation in objects:
            box = inside_image(corners(annotation), image.width, image.height)
            cut, part = _cut_out(image, box, around)
            if preprocessing.resizes_freely:
                scale = SHOWN / max(cut.size)
                cut = cut.resize([max(NARROWEST, round(length * scale)) for length in cut.size])
            cuts.append(preprocessing(cut, resize=not preprocessing.resizes_freely))
            boxes.append(part)
        pixels, mask = collate_images(cuts)
        labels = torch.tensor([self.label(annotation) for annotation in objects])
        depends = F.avg_pool2d(self._sensitivity(pixels, mask, torch.tensor(boxes), labels), 3, 1, 1)
        sides = torch.tensor([size.shape[side] for size in cuts for side in (2, 1, 2, 1)]).view(-1, 4)
        stride = pixels.shape[3] / depends.shape[3]
        places = [send(place[None] / stride, depends.device) for place in torch.tensor(boxes) * sides]
        cells = roi_align(depends, places, (SIDE, SIDE), sampling_ratio=2, aligned=True)[:, 0]
        odds = (cells / cells.mean((1, 2), keepdim=True).clamp(min=1e-30) + FLOOR).log().cpu()
        return _standardised(odds)

    def _sensitivity(self, pixels: Tensor, mask: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """How much each cell of the finest map changes the class logit of its cut: (M, 1, h, w)."""
        device = next(self.detector.model.parameters()).device
        with torch.enable_grad():
            pixels = send(pixels, device).requires_grad_()
            detections = self.detector.detect(pixels, send(mask, device))
            asked = self._logits(detections, boxes, labels)
            maps = [level for level in (detections.stem, *detections.features) if level is not None]
            gradients = torch.autograd.grad(asked.sum(), maps, retain_graph=True, allow_unused=True)
            used = [level.detach() * by for level, by in zip(maps, gradients, strict=True) if by is not None]
            # Some detectors hand out copies of their maps, which no score depends on.
            depends = used[0] if used else torch.autograd.grad(asked.sum(), pixels)[0]
        return depends.abs().sum(1, keepdim=True).nan_to_num()

    def _logits(self, detections: Detections, boxes: Tensor, labels: Tensor) -> Tensor:
        """(M,), of the query in each cut that fits its box best, and of the object's class or else the query's best."""
        rule, numbers = self.detector.info.score_rule, torch.arange(len(boxes))
        centred = box_convert(boxes, "xyxy", "cxcywh").float()
        with torch.no_grad():
            queries = choose_queries(detections, rule, numbers, centred, labels)
        logits = detections.logits[numbers.to(queries.device), queries]  # (M, K)
        if rule.kind == "softmax":
            logits = logits[:, :-1] - logits[:, -1:]  # beside no object: where the detector is sure, this still moves
        labels = labels.to(logits.device)
        labels = torch.where(labels == UNKNOWN, logits.argmax(1), labels)
        return logits.gather(1, labels[:, None])[:, 0]


def _standardised(odds: Tensor) -> Tensor:
    """(M, V, V) of mean 0 and deviation 1 each."""
    odds = odds - odds.mean((1, 2), keepdim=True)
    return odds / odds.std((1, 2), keepdim=True).clamp(min=1e-6)


def _cut_out(image: Image.Image, box: Box, around: float) -> tuple[Image.Image, Box]:
    """The picture around a box, and the box in it, in [0, 1] of its sides."""
    side = max(around * max(box[2] - box[0], box[3] - box[1]), SMALLEST)
    x0, x1 = _stretch((box[0] + box[2]) / 2, side, image.width)
    y0, y1 = _stretch((box[1] + box[3]) / 2, side, image.height)
    w, h = x1 - x0, y1 - y0
    cut = image.resize((max(1, round(w)), max(1, round(h))), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
    return cut, ((box[0] - x0) / w, (box[1] - y0) / h, (box[2] - x0) / w, (box[3] - y0) / h)


def _stretch(centre: float, length: float, limit: int) -> tuple[float, float]:
    """So much of [0, limit] around a centre; shifted, where it would begin before, and cut where it would end after."""
    start = min(max(centre - length / 2, 0.0), max(0.0, limit - length))
    return start, min(start + length, float(limit))
