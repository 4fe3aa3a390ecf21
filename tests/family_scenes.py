"""Scenes whose masks betray a shift, and detectors in which a shift has nothing to hide behind.

A mask is a random pattern of blocks, two cells of the finest map each: half a cell too far, and a quarter of every
block is wrong. Random detectors, too, would make up for that, as a cell of theirs sees far beyond itself;
`blinker` leaves each cell its own pixels alone.
Letters: B images, S side of the ground-truth crops.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.training.losses import mask_iou
from mask_frozen_detr.training.points import cell_centres, read_truth

BLOCKS, SIDE_OF_CROPS = 4, 56
COLOUR = (2.0, 1.5, -1.0)
# Nothing in it knows a place or looks beside it: each point's logit comes from the maps' values there alone.
POINTWISE = MaskNetworkConfig(
    image_encoder="none",
    image_layers=0,
    box_encoder="none",
    box_layers=0,
    mask_width=16,
    query_ffn=False,
    query_b2o=False,
    roi_size=16,
    mask_scoring=False,
)


def blinker(model: nn.Module) -> None:
    """Cut every convolution and pooling down to the pixels that its cell covers: [i·s, (i + 1)·s)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                assert not isinstance(module.padding, str)
                for axis, shape in ((0, (-1, 1)), (1, (1, -1))):
                    size, stride, pad = module.kernel_size[axis], module.stride[axis], module.padding[axis]
                    if size > stride:
                        kept = torch.zeros(size)
                        kept[pad : pad + stride] = (size / stride) ** 0.5  # the variance stays
                        module.weight.mul_(kept.view(shape))
            elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and module.stride not in (1, (1, 1)):
                module.kernel_size, module.padding = module.stride, 0
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()  # they were of what it no longer sees


@dataclass
class BlockScenes:
    """pixel_values (B, 3, H, W), pixel_mask (B, H, W); boxes (B, 1, 4) relative to the unpadded images and crops
    (B, S, S) of their one object each."""

    pixel_values: Tensor
    pixel_mask: Tensor
    boxes: Tensor
    crops: Tensor


def draw_scenes(sizes: list[tuple[int, int]], block: int, seed: int = 0) -> BlockScenes:
    """One padded batch of images of these (height, width): BLOCKS × BLOCKS blocks of `block` pixels somewhere."""
    generator = torch.Generator().manual_seed(seed)
    height, width, side = max(h for h, _ in sizes), max(w for _, w in sizes), BLOCKS * block
    scenes = BlockScenes(
        torch.zeros(len(sizes), 3, height, width),
        torch.zeros(len(sizes), height, width, dtype=torch.long),
        torch.zeros(len(sizes), 1, 4),
        torch.zeros(len(sizes), SIDE_OF_CROPS, SIDE_OF_CROPS),
    )
    for b, (h, w) in enumerate(sizes):
        pattern = (torch.rand(BLOCKS, BLOCKS, generator=generator) < 0.5).float()
        y, x = (int(torch.randint((s - side) // (block // 2) + 1, (), generator=generator)) for s in (h, w))
        y, x = y * (block // 2), x * (block // 2)  # on the grid of cells
        shown = pattern.repeat_interleave(block, 0).repeat_interleave(block, 1)
        scenes.pixel_values[b, :, y : y + side, x : x + side] = shown * torch.tensor(COLOUR)[:, None, None]
        scenes.pixel_mask[b, :h, :w] = 1
        scenes.boxes[b, 0] = torch.tensor([(x + side / 2) / w, (y + side / 2) / h, side / w, side / h])
        scenes.crops[b] = pattern.repeat_interleave(SIDE_OF_CROPS // BLOCKS, 0).repeat_interleave(
            SIDE_OF_CROPS // BLOCKS, 1
        )
    return scenes


def standardise(maps: Tensor) -> Tensor:
    """Each channel to mean 0 and variance 1: random weights give any scale."""
    mean, deviation = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)
    return (maps - mean) / deviation.clamp(min=1e-6)


def overfit(detector: FrozenDetector, scenes: BlockScenes, stem: bool, shift: float = 0.0, steps: int = 40) -> Tensor:
    """Mask IoU (B,) after a pointwise mask network has learned the scenes, with their boxes given.

    shift: pixels by which the frames lie beside the boxes, as an adapter that is wrong by so much would have it.
    """
    images = len(scenes.boxes)
    found = detector(scenes.pixel_values, scenes.pixel_mask)
    moved = scenes.boxes.clone()
    moved[..., :2] += shift / extents(scenes.pixel_mask)[:, None]
    found = replace(
        found,
        boxes=moved,
        queries=found.queries[:1, :1].expand(images, -1, -1),
        features=[standardise(level) for level in found.features],
    )
    torch.manual_seed(0)
    network = MaskNetwork(replace(POINTWISE, stem=stem, neck=stem), detector.shapes)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    image_index, query_index = torch.arange(images), torch.zeros(images, dtype=torch.long)
    frames = pixel_boxes(scenes.boxes[:, 0], extents(scenes.pixel_mask))
    points = cell_centres(POINTWISE.roi_size, POINTWISE.roi_size, frames.device).expand(images, -1, -1)
    truth = read_truth(scenes.crops, frames, frames, points).view(images, POINTWISE.roi_size, -1)
    for _ in range(steps):
        logits = network(found, scenes.pixel_mask, image_index, query_index).logits
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits, truth).backward()
        optimizer.step()
    return mask_iou(logits.detach(), scenes.crops, frames, frames)
