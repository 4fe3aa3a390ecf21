"""Neck and fusion: F = neck(C₁) + upsample(E₁) (paper, equations 1, 5 and 14).

Of a finer look (not in the paper) C₁ is at stride 2, F as well, and the backbone's coarser maps are added as C₁ is.

Letters: B images, d width, c mask width, C channels of C₁, h × w cells of F.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_frozen_detr.network.stem import Stem
from mask_frozen_detr.ops.padding import masked_group_norm, repeat_edges, upsampled_cells


class Neck(nn.Module):
    """Point-wise convolution and group normalisation of C₁ (equation 14).

    The statistics are those of the image alone: padding never counts.
    """

    def __init__(self, stem_width: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(stem_width, width, 1)
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if width % g == 0)
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, stem: Tensor, valid: Tensor | None, mapper: nn.Module | None = None) -> Tensor:
        """stem (B, C, h, w), valid (B, h, w) or None → (B, d, h, w); (B, c, h, w) where `mapper` is a Linear from d to
        c: each cell is mapped by its weights then, without its bias.
        """
        if isinstance(mapper, nn.Linear) and self.conv.in_channels <= mapper.in_features:
            with torch.autocast(stem.device.type, enabled=False):  # of thousands of squares half precision is no sum
                at_least = torch.promote_types(stem.dtype, torch.float32)
                return self._at_once(stem.to(at_least), valid, mapper.weight).to(stem.dtype)
        maps = self.conv(stem)
        maps = self.norm(maps) if valid is None else masked_group_norm(maps, valid, self.norm)
        return _mapped(maps, mapper, bias=False) if isinstance(mapper, nn.Linear) else maps

    def _at_once(self, stem: Tensor, valid: Tensor | None, mapper: Tensor) -> Tensor:
        """Equation 14, and `mapper` (c, d) times each cell: (B, c, h, w). Equal up to rounding, and cheaper.

        Once its statistics are known a normalisation is linear, and they follow from the mean and the covariance of
        C₁'s channels. So one product with (c, C) filters of each image's own does it all, and no map of d channels is
        ever made.
        """
        assert self.conv.bias is not None
        learned = (self.conv.weight.flatten(1), self.conv.bias, self.norm.weight, self.norm.bias, mapper)
        filters, bias, gain, shift, mapper = (weights.to(stem.dtype) for weights in learned)  # filters: (d, C)
        cells = stem.flatten(2)  # (B, C, h·w)
        count: Tensor | int = cells.shape[2]
        if valid is None:
            mean = cells.mean(2, keepdim=True)
            centred = cells - mean
        else:
            inside = valid.flatten(1)[:, None].to(cells)
            count = inside.sum(2, keepdim=True)
            mean = (cells * inside).sum(2, keepdim=True) / count
            centred = (cells - mean) * inside
        covariance = centred @ centred.transpose(1, 2) / count  # (B, C, C)
        groups = (self.norm.num_groups, -1)
        means = ((filters @ mean)[:, :, 0] + bias).unflatten(1, groups)  # of what `conv` gives
        variances = ((filters @ covariance) * filters).sum(2).unflatten(1, groups)
        offsets = means - means.mean(2, keepdim=True)
        scale = (variances + offsets.square()).mean(2, keepdim=True).add(self.norm.eps).rsqrt()
        scale = scale.expand_as(offsets).flatten(1) * gain  # (B, d)
        offsets = offsets.flatten(1) * scale + shift
        maps = mapper * scale[:, None] @ filters @ centred + (offsets @ mapper.T)[:, :, None]
        maps = maps.unflatten(2, stem.shape[2:])
        return maps if valid is None else maps * valid[:, None]


class Fusion(nn.Module):
    """F = neck(C₁) + bilinear(E₁ → stride 4); without C₁, E₁ upsampled to stride 4 (or as fine as it is).

    stages: coarser maps of the backbone, each through a neck of its own, upsampled and added besides.
    Without a neck C₁ is added as it is where its width is E₁'s, as in the paper, and through a bare projection where it
    is not.
    """

    def __init__(self, width: int, stride: int, stem: Stem | None, neck: bool, stages: Sequence[Stem] = ()):
        super().__init__()
        self.uses_stem = stem is not None
        finest = 4 if stem is None else min(4, stem.stride)
        self.stem_factor = 1.0 if stem is None else stem.stride / finest  # above 1 for a stem not as fine as C₁
        self.factor = stride / finest if stride > finest else 1.0
        self.stride = stride / self.factor  # input pixels a cell of F
        self.neck = Neck(stem.width, width) if stem is not None and neck else None
        bare = stem is not None and not neck and stem.width != width
        self.projection = nn.Conv2d(stem.width, width, 1) if stem is not None and bare else None
        self.stage_necks = nn.ModuleList(Neck(stage.width, width) for stage in stages)
        self.stage_factors = [stage.stride / finest for stage in stages]

    def forward(
        self,
        encoded: Tensor,
        stem: Tensor | None,
        encoded_valid: Tensor | None = None,
        stem_valid: Tensor | None = None,
        mapper: nn.Module | None = None,
        stages: Sequence[Tensor] = (),
        stages_valid: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """encoded (B, d, H_1, W_1), stem (B, C, h, w) or None, stages (B, C_n, h_n, w_n) each; the masks of their valid
        cells, None without padding.

        mapper: a Linear that takes each cell of F to c channels, or an Identity. Where it makes maps narrower it is
        applied to both before they are made larger and added, which is the same and cheaper.

        Returns F (B, d, h, w), or mapped (B, c, h, w), at `self.stride`. In a padded batch the image's own last row
        and column are repeated into the padding, so that reading between cells at the border gives what the image
        alone gives.
        """
        if isinstance(mapper, nn.Linear):
            if mapper.out_features >= mapper.in_features:
                whole = self(encoded, stem, encoded_valid, stem_valid, None, stages, stages_valid)
                return _mapped(whole, mapper)
            encoded = _mapped(encoded, mapper)
        if encoded_valid is not None:
            encoded = repeat_edges(encoded, encoded_valid)
        if self.factor > 1:
            # An exact factor, then a crop: cell i of stride s covers pixels [i·s, (i + 1)·s) whatever the padding.
            encoded = F.interpolate(encoded, scale_factor=self.factor, mode="bilinear", align_corners=False)
        if not self.uses_stem:
            return encoded
        assert stem is not None, "the detector gave no stem, but the mask network was built for one"
        if self.neck is not None:
            stem = self.neck(stem, stem_valid, mapper)
        else:
            stem = stem if self.projection is None else self.projection(stem)
            stem = _mapped(stem, mapper, bias=False) if isinstance(mapper, nn.Linear) else stem
        if self.stem_factor > 1:
            stem = _upsampled(stem, stem_valid, self.stem_factor)
            stem_valid = None if stem_valid is None else upsampled_cells(stem_valid, self.stem_factor, stem.shape[2:])
        fused = stem + _fitted(encoded, stem)
        for number, (neck, factor, stage) in enumerate(zip(self.stage_necks, self.stage_factors, stages, strict=True)):
            valid = None if stages_valid is None else stages_valid[number]
            fused = fused + _fitted(_upsampled(neck(stage, valid, mapper), valid, factor), fused)
        return fused if stem_valid is None else repeat_edges(fused, stem_valid)


def _upsampled(maps: Tensor, valid: Tensor | None, factor: float) -> Tensor:
    """(B, d, h, w) → (B, d, factor · h, factor · w); the image's last cells repeated into what is padding."""
    if valid is not None:
        maps = repeat_edges(maps, valid)
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def _fitted(maps: Tensor, like: Tensor) -> Tensor:
    """Maps cut, or their last cells repeated, to the height and width of `like`."""
    h, w = like.shape[2:]
    missing = (0, max(0, w - maps.shape[3]), 0, max(0, h - maps.shape[2]))
    if any(missing):
        maps = F.pad(maps, missing, mode="replicate")
    return maps[:, :, :h, :w]


def _mapped(maps: Tensor, mapper: nn.Linear, bias: bool = True) -> Tensor:
    """(B, d, h, w) → (B, c, h, w), each cell by itself: a point-wise convolution, so that no map is transposed."""
    return F.conv2d(maps, mapper.weight[:, :, None, None], mapper.bias if bias else None)
