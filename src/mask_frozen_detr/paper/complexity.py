"""Parameters and multiply-accumulates of the mask network, beside the paper's (Tables 1 to 5, 10, 12, 14 and 16).

Each row's network is built and run on the meta device, shapes only, so that all of them take seconds. What counts:
Linear, Conv and attention products; 5 per element of a normalisation; 4 per element of a bilinear resizing;
17 per element of RoIAlign. The sampling inside deformable attention, additions and activations do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig
from mask_frozen_detr.network.deformable import DeformableLayer, TokenGrid
from mask_frozen_detr.network.fusion import Fusion
from mask_frozen_detr.network.image_encoder import DeformableImageEncoder
from mask_frozen_detr.network.query_encoder import BoxToObject
from mask_frozen_detr.paper.tables import REPEATED, PaperRow, paper_rows

IMAGE = (800, 1120)  # height, width: the size on which the paper's figures come out
H_DETR = DetectorShapes(256, (256,) * 4, (8, 16, 32, 64), 256, 80)
DINO = DetectorShapes(256, (256,) * 5, (4, 8, 16, 32, 64), None, 80)  # 5-scale; no C₁ beside its stride-4 level
BOXES = {"H-DETR": 100, "DINO": 300}

PER_NORMED = 5
PER_RESIZED = 4
# Four samples of four cells each, and their mean. Without the 1 three rows miss the paper's figure: 0.50 for 0.53
# and 0.54 (Table 1), 8.04 for 8.12 (Table 2).
PER_ALIGNED = 16 + 1


@dataclass(frozen=True)
class ComplexityRow:
    """One row: ours, then the paper's."""

    table: int
    row: str
    params: int
    macs: int
    paper_params_m: float
    paper_gmacs: float


def complexity_rows(table: int | None = None) -> list[ComplexityRow]:
    """Ours and the paper's, for the rows of one table or of all: 41, without the five that print a cost again.

    Raises UserError for a table without complexity figures.
    """
    printed = [row for row in paper_rows() if row.gmacs is not None]
    tables = sorted({row.table for row in printed})
    if table is not None and table not in tables:
        raise UserError(f"--table: found {table}, expected a table with complexity figures: {tables}")
    return [_row(row) for row in printed if table in (None, row.table) and (row.table, row.name) not in REPEATED]


def _row(row: PaperRow) -> ComplexityRow:
    assert row.gmacs is not None
    assert row.params_m is not None
    shapes = DINO if row.detector == "DINO" else H_DETR
    params, macs = complexity(row.config, shapes, BOXES[row.detector])
    return ComplexityRow(row.table, row.name, params, macs, row.params_m, row.gmacs)


@cache
def complexity(
    config: MaskNetworkConfig, shapes: DetectorShapes, boxes: int, image: tuple[int, int] = IMAGE
) -> tuple[int, int]:
    """Parameters of a mask network and multiply-accumulates of its forward pass for one image (height, width)."""
    with torch.device("meta"):
        network = as_written(MaskNetwork(config, shapes).eval())
        detections = _detections(shapes, boxes, image)
    # These are read, not only counted, so they are real.
    pixel_mask = torch.ones(1, *image, dtype=torch.bool)
    image_index, query_index = torch.zeros(boxes, dtype=torch.long), torch.arange(boxes)
    macs = count_macs(lambda: network(detections, pixel_mask, image_index, query_index))
    return sum(parameter.numel() for parameter in network.parameters()), macs


def as_written(network: MaskNetwork) -> MaskNetwork:
    """Put the paper's operations in the place of our shortcuts, to count them; what the network computes is the same.

    The network itself is changed, and keeps its parameters.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, BoxToObject):
            network.set_submodule(name, BoxToObjectAsWritten(module))
        elif isinstance(module, Fusion):
            network.set_submodule(name, FusionAsWritten(module))
        elif isinstance(module, DeformableImageEncoder):
            module.layers[-1] = LayerOnAllTokens(module.layers[-1])
    return network


class FusionAsWritten(nn.Module):
    """F in the detector's width, mapped to the mask width when it is complete."""

    def __init__(self, shortcut: Fusion):
        super().__init__()
        self.fusion, self.stride = shortcut, shortcut.stride

    def forward(
        self,
        encoded: Tensor,
        stem: Tensor | None,
        encoded_valid: Tensor | None,
        stem_valid: Tensor | None,
        mapper: nn.Module,
        stages: Sequence[Tensor] = (),
        stages_valid: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """As `Fusion.forward`."""
        maps = self.fusion(encoded, stem, encoded_valid, stem_valid, None, stages, stages_valid)  # (B, d, h, w)
        return mapper(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BoxToObjectAsWritten(nn.Module):
    """Equation 11 by torch's own attention: a key and a value of each of a box's features."""

    def __init__(self, shortcut: BoxToObject):
        super().__init__()
        width, device = shortcut.in_proj_weight.shape[1], shortcut.in_proj_weight.device
        self.attention = nn.MultiheadAttention(width, shortcut.num_heads, batch_first=True, device=device)
        self.attention.in_proj_weight, self.attention.in_proj_bias = shortcut.in_proj_weight, shortcut.in_proj_bias
        self.attention.out_proj = shortcut.out_proj
        self.train(shortcut.training)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries (M, c), box features (M, c, r, r) → (M, c)."""
        tokens = features.flatten(2).transpose(1, 2)  # (M, r·r, c)
        return self.attention(queries[:, None], tokens, tokens, need_weights=False)[0][:, 0]


class LayerOnAllTokens(nn.Module):
    """A last layer that refines all levels, also those that nobody reads after it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        assert isinstance(layer, DeformableLayer)
        self.layer = layer

    def forward(self, tokens: Tensor, grid: TokenGrid, count: int) -> Tensor:
        """(B, S, d) → (B, S, d); count: how many of them go on."""
        return self.layer(tokens, grid)


def count_macs(run: Callable[[], Any]) -> int:
    """Multiply-accumulates of all that `run` calls, by the rules at the top of this file."""
    aten = torch.ops.aten
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            aten.native_layer_norm: _per_element(PER_NORMED),
            aten.native_group_norm: _per_element(PER_NORMED),
            aten.upsample_bilinear2d: _per_element(PER_RESIZED),
            torch.ops.torchvision.roi_align: _per_element(PER_ALIGNED),
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # torch 2.11 leaves it out
        },
    )
    with torch.no_grad(), _ShapeOfSamples(), counter:
        run()
    return counter.get_total_flops() // 2  # it counts a multiply-accumulate as two


class _ShapeOfSamples(TorchDispatchMode):
    """`grid_sample` on the meta device in one step: torch's own hundred take longer than all the rest."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.grid_sampler_2d.default and args[0].is_meta:
            maps, grid = args[:2]
            return maps.new_empty(*maps.shape[:2], *grid.shape[1:3])
        return func(*args, **(kwargs or {}))


def _per_element(macs: int) -> Callable[..., int]:
    """A formula for the counter: so many multiply-accumulates an element of the (first) output."""

    def formula(*_shapes: Any, out_shape: Any, **_options: Any) -> int:
        shape = out_shape if isinstance(out_shape, torch.Size) else out_shape[0]
        return 2 * macs * shape.numel()

    return formula


def _attention(query: Any, key: Any, value: Any, *_shapes: Any, **_options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _detections(shapes: DetectorShapes, boxes: int, image: tuple[int, int]) -> Detections:
    height, width = image

    def level(channels: int, stride: int) -> torch.Tensor:
        return torch.empty(1, channels, -(-height // stride), -(-width // stride))

    return Detections(
        queries=torch.empty(1, boxes, shapes.query_width),
        logits=torch.empty(1, boxes, shapes.num_classes),
        boxes=torch.empty(1, boxes, 4),
        features=[level(width, stride) for width, stride in zip(shapes.feature_widths, shapes.strides, strict=True)],
        stem=None if shapes.stem_width is None else level(shapes.stem_width, shapes.stem_stride),
        stages=[level(width, stride) for width, stride in zip(shapes.stage_widths, shapes.stage_strides, strict=True)],
    )


def as_json(rows: Sequence[ComplexityRow]) -> list[dict[str, Any]]:
    """The rows as JSON holds them: table, row, params, macs, paper_params_m, paper_gmacs."""
    return [asdict(row) for row in rows]


def format_table(rows: Sequence[ComplexityRow]) -> str:
    """Ours beside the paper's, in millions and billions, as text to print."""
    lines = [f"{'table':>5}  {'row':<20}{'params M':>9}{'paper':>7}{'MACs G':>10}{'paper':>9}{'difference':>12}"]
    lines += [
        f"{row.table:>5}  {row.row:<20}{row.params / 1e6:>9.2f}{row.paper_params_m:>7.2f}"
        f"{row.macs / 1e9:>10.2f}{row.paper_gmacs:>9.2f}{row.macs / 1e9 / row.paper_gmacs - 1:>12.2%}"
        for row in rows
    ]
    lines.append(f"One image of {IMAGE[0]} × {IMAGE[1]}, 100 boxes; Table 16: 300 boxes.")
    return "\n".join(lines)
