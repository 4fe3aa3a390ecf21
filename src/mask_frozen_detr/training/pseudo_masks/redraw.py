"""Pseudo-masks drawn anew by the mask network, within the true boxes: between the rounds of a run.

The network has seen all objects, and each alone is drawn as all taught it. The picture and its mirror image are
asked, with the box as it is and a little wider; the mean of the four takes the place of the guess that the first masks
began with, and pixels and evidence are judged anew by it.

Letters: M objects of an image, S cells a side of their masks, r × r a mask of the network.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.given_boxes import choose_queries
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.enough_memory import enough_memory
from mask_frozen_detr.training.points import cell_centres, read_logits
from mask_frozen_detr.training.pseudo_masks.draw import missing_of
from mask_frozen_detr.training.pseudo_masks.soft_cut import corners, inside_image, soft_cut
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks
from mask_frozen_detr.training.samples import TrainingData, collate

WIDENED = (1.0, 1.1)  # of the boxes' sides: the detector's own boxes, that training sees, are not exact either


def redraw_missing(
    store: PseudoMasks, model: MaskFrozenDetr, dataset: TrainingData, cache: FrozenCache | None, quiet: bool
) -> None:
    """Masks of `store`'s round by the network as it is now; of several processes each draws its share.

    Raises UserError where a file cannot be written.
    """
    state = processes()
    missing = missing_of(store, dataset.images[state.process_index :: state.num_processes])
    bar = Progress("redrawing pseudo-masks", len(missing), quiet=quiet or not missing or not state.is_main_process)
    was_training = model.network.training
    model.network.eval()
    try:
        for done, record in enumerate(missing, 1):
            with enough_memory([record.path], "drawing its pseudo-masks anew"):
                try:
                    drawn = _masks(store, model, dataset, cache, record)
                    image = open_picture(record, record.orientation)
                except UserError:  # training leaves the picture out, and says why
                    continue
                known = zip(store.objects(record), store.read_evidence(record), drawn, strict=True)
                masks = [soft_cut(image, corners(annotation), told, mask) for annotation, told, mask in known]
            store.write(record, np.stack(masks))
            bar.update(done)
    finally:
        model.network.train(was_training)
        bar.close()
    state.wait_for_everyone()


@torch.no_grad()
def _masks(
    store: PseudoMasks, model: MaskFrozenDetr, dataset: TrainingData, cache: FrozenCache | None, record: ImageRecord
) -> np.ndarray:
    """(M, S, S) uint8. Raises UserError where the picture cannot be read."""
    boxes, labels = _objects(store, dataset, record)
    total = torch.zeros(len(boxes), MASK_SIDE, MASK_SIDE)
    flips = (False, True) if dataset.augment.flip else (False,)
    for flip in flips:
        batch = (collate if cache is None else cache.batch)([dataset.whole(record, flip)])
        detections = batch.images
        if not isinstance(detections, Detections):
            detections = model.detector(send(detections, model.device), batch.pixel_mask)
        mirrored = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1) if flip else boxes
        seen = _seen(model, detections, batch.pixel_mask, mirrored, labels)
        total += seen.flip(-1) if flip else seen
    return (255 * total / len(flips)).round().to(torch.uint8).numpy()


def _objects(store: PseudoMasks, dataset: TrainingData, record: ImageRecord) -> tuple[Tensor, Tensor]:
    """Boxes within the image, (M, 4) as cx, cy, w, h in [0, 1], and class indices (M,)."""
    inside, labels = [], []
    for annotation in store.objects(record):
        inside.append(inside_image(corners(annotation), record.width, record.height))
        labels.append(dataset.classes.index_of.get(annotation.category_id, UNKNOWN))
    size = torch.tensor([record.width, record.height] * 2)
    return box_convert(torch.tensor(inside) / size, "xyxy", "cxcywh"), torch.tensor(labels)


def _seen(model: MaskFrozenDetr, detections: Detections, pixel_mask: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Chances (M, S, S) over the boxes, the mean of the frames, on the host."""
    images = torch.zeros(len(boxes), dtype=torch.int64)
    queries = choose_queries(detections, model.detector.info.score_rule, images, boxes, labels).cpu()
    count, times = len(boxes), len(WIDENED)
    frames = torch.cat([torch.cat([boxes[:, :2], boxes[:, 2:] * factor], 1) for factor in WIDENED])
    output = model.network(detections, pixel_mask, images.repeat(times), queries.repeat(times), frames)
    # where the cells of the boxes are in the frames
    inner = send(pixel_boxes(boxes, extents(pixel_mask)[images]), output.frames.device).repeat(times, 1)
    outer = output.frames.float()
    cells = cell_centres(MASK_SIDE, MASK_SIDE, outer.device)  # (1, S², 2)
    places = inner[:, None, :2] + cells * (inner[:, 2:] - inner[:, :2])[:, None]
    points = (places - outer[:, None, :2]) / (outer[:, 2:] - outer[:, :2])[:, None].clamp(min=1e-6)
    chances = read_logits(output.logits.float(), points).sigmoid().view(times, count, MASK_SIDE, MASK_SIDE)
    return chances.mean(0).cpu()
