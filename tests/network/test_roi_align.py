"""Box features come from the box's pixels, and masks lie where their objects are."""

import pytest
import torch
from synthetic_detections import all_queries

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.network import MaskNetwork, mask_network, training_free
from mask_frozen_detr.results.paste import paste_probabilities


def coordinate_map(stride: int, size: tuple[int, int], channels: int) -> torch.Tensor:
    """Channel 0 holds the x and channel 1 the y of each cell's centre, in pixels; channel 2 holds ones."""
    maps = torch.zeros(1, channels, size[0] // stride, size[1] // stride)
    maps[0, 0] = (torch.arange(maps.shape[3]) + 0.5) * stride
    maps[0, 1] = ((torch.arange(maps.shape[2]) + 0.5) * stride)[:, None]
    maps[0, 2] = 1
    return maps


def coordinates(stride: int | None, padded: bool) -> tuple[Detections, DetectorShapes, torch.Tensor]:
    """A detector whose map of `stride` (None: its stem) tells where it is; queries read x and y of one box each."""
    size, frame = (128, 192), (192, 256) if padded else (128, 192)
    level = stride or 8
    shapes = DetectorShapes(4, (4,), (level,), 4, 1)
    maps = coordinate_map(level, frame, 4)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.4, 0.6, 0.11, 0.23], [0.55, 0.45, 0.37, 0.55]])
    detections = Detections(
        queries=torch.eye(4)[:2].repeat(3, 1)[None],
        logits=torch.zeros(1, 6, 1),
        boxes=boxes.repeat_interleave(2, 0)[None],
        features=[torch.zeros_like(maps) if stride is None else maps],
        stem=coordinate_map(4, frame, 4) if stride is None else torch.zeros(1, 4, frame[0] // 4, frame[1] // 4),
    )
    pixel_mask = torch.zeros(1, *frame)
    pixel_mask[:, : size[0], : size[1]] = 1
    return detections, shapes, pixel_mask


def worst_box_error(stride: int | None, padded: bool) -> float:
    """How far, in pixels, RoIAlign's cells lie from where the boxes' cells are."""
    detections, shapes, pixel_mask = coordinates(stride, padded)
    network = MaskNetwork(training_free(roi_size=8), shapes)
    output = network(detections, pixel_mask, *all_queries(detections))
    centres = (torch.arange(8) + 0.5) / 8
    worst = 0.0
    for k in range(6):
        cx, cy, w, h = (detections.boxes[0, k] * torch.tensor([192, 128, 192, 128])).tolist()
        x, y = cx + (centres - 0.5) * w, cy + (centres - 0.5) * h
        expected = x.expand(8, 8) if k % 2 == 0 else y[:, None].expand(8, 8)
        worst = max(worst, (output.logits[k] - expected).abs().max().item())
        assert output.frames[k].tolist() == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1e-3)
    return worst


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("stride", [4, 8, 16, None])
def test_box_features_come_from_the_boxs_pixels(stride, padded):
    assert worst_box_error(stride, padded) < 0.01


def test_half_a_cell_off_is_seen(monkeypatch):
    """The test above is one that fails for RoIAlign's old convention, half a stride-4 cell away."""
    aligned = mask_network.roi_align
    monkeypatch.setattr(mask_network, "roi_align", lambda *args, **kw: aligned(*args, **{**kw, "aligned": False}))
    assert worst_box_error(8, False) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("roi_align", [True, False])
@pytest.mark.parametrize("stride", [4, 8, 16, None])
def test_a_painted_object_comes_out_on_its_pixels(stride, roi_align):
    """Its left edge lies at x = 81.3: of all pixels, those with a centre to the right of it belong to the mask."""
    detections, shapes, pixel_mask = coordinates(stride, padded=False)
    detections.queries = torch.tensor([1.0, 0, -81.3, 0]).expand(1, 6, 4)
    network = MaskNetwork(training_free(roi_align=roi_align), shapes)
    output = network(detections, pixel_mask, *all_queries(detections))
    for k in range(0, 6, 2):
        # logits, not probabilities, so that the edge keeps its place between two cells
        piece = paste_probabilities(output.logits[k].numpy(), output.frames[k].tolist(), 128, 192)
        columns = torch.arange(piece.x, piece.x + piece.values.shape[1]) + 0.5
        assert (columns > 81.3).any()
        assert (columns < 81.3).any()
        assert torch.equal(torch.from_numpy(piece.values > 0), (columns > 81.3).expand(piece.values.shape))
