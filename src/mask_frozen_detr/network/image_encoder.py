"""The image feature encoder F_e (paper, section 3.2, equations 5 to 8).

Each kind takes the detector's features (B, d_l, H_l, W_l), finest first, and their valid cells (B, H_l, W_l), None
where nothing is padded, and gives (B, width, H_1, W_1).
Letters: B images, d width, H_l × W_l level l, L levels, S = Σ H_l·W_l tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mask_frozen_detr.network.config import EncoderKind
from mask_frozen_detr.network.convnext import ConvNeXtLayer
from mask_frozen_detr.network.deformable import DeformableLayer, TokenGrid
from mask_frozen_detr.network.swin import SwinLayer
from mask_frozen_detr.ops.padding import extents

IMAGE_WINDOW = 16


class DeformableImageEncoder(nn.Module):
    """Multi-scale deformable layers on all levels; only the finest one goes on, so the last layer refines it alone."""

    def __init__(self, widths: Sequence[int], layers: int):
        super().__init__()
        width = widths[0]
        # Detectors whose levels differ in width, or whose width the heads do not divide, are projected first.
        self.width = width if width % 8 == 0 else 8 * round(width / 8 + 0.5)
        self.projections = nn.ModuleList(
            nn.Identity() if w == self.width else nn.Conv2d(w, self.width, 1) for w in widths
        )
        self.layers = nn.ModuleList(DeformableLayer(self.width, len(widths)) for _ in range(layers))

    def forward(self, features: Sequence[Tensor], valid: Sequence[Tensor] | None) -> Tensor:
        features = [project(level) for project, level in zip(self.projections, features, strict=True)]
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in features], 1)  # (B, S, d)
        grid = TokenGrid.of(shapes, tokens.device, valid)
        *earlier, last = self.layers
        for layer in earlier:
            tokens = layer(tokens, grid)
        h, w = shapes[0]
        tokens = last(tokens, grid, count=h * w)
        return tokens[:, : h * w].transpose(1, 2).unflatten(2, (h, w))


class SwinImageEncoder(nn.Module):
    """Shifted-window layers on the finest level alone."""

    def __init__(self, widths: Sequence[int], layers: int):
        super().__init__()
        self.width = widths[0]
        self.layers = nn.Sequential(*(SwinLayer(self.width, IMAGE_WINDOW, i) for i in range(layers)))

    def forward(self, features: Sequence[Tensor], valid: Sequence[Tensor] | None) -> Tensor:
        finest = features[0]
        if valid is None:
            return self.layers(finest)
        # Windows are laid out from an image's own border: a padded batch goes image by image.
        output = torch.zeros_like(finest)
        for b, (w, h) in enumerate(extents(valid[0]).tolist()):
            output[b, :, :h, :w] = self.layers(finest[b : b + 1, :, :h, :w])[0]
        return output


class ConvNeXtImageEncoder(nn.Module):
    """ConvNeXt layers on the finest level alone."""

    def __init__(self, widths: Sequence[int], layers: int):
        super().__init__()
        self.width = widths[0]
        self.layers = nn.ModuleList(ConvNeXtLayer(self.width) for _ in range(layers))

    def forward(self, features: Sequence[Tensor], valid: Sequence[Tensor] | None) -> Tensor:
        mask = None if valid is None else valid[0][:, None]
        maps = features[0]
        for layer in self.layers:
            maps = layer(maps, mask)
        return maps


class NoImageEncoder(nn.Module):
    """E₁ as the detector gives it (equation 1)."""

    def __init__(self, widths: Sequence[int], layers: int = 0):
        super().__init__()
        self.width = widths[0]

    def forward(self, features: Sequence[Tensor], valid: Sequence[Tensor] | None) -> Tensor:
        return features[0]


ImageEncoder = DeformableImageEncoder | SwinImageEncoder | ConvNeXtImageEncoder | NoImageEncoder

IMAGE_ENCODERS: dict[EncoderKind, type[ImageEncoder]] = {
    "deformable": DeformableImageEncoder,
    "swin": SwinImageEncoder,
    "convnext": ConvNeXtImageEncoder,
    "none": NoImageEncoder,
}
