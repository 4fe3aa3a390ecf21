"""Backbones of the official checkpoints: torchvision's ResNet, transformers' Swin and FocalNet.

Both families of code bring their own Swin and FocalNet; transformers' compute the same. What the detectors add is a
LayerNorm on each stage that they read, and C₁: the first stage's output before that norm and before down-sampling.
Letters: B images, H × W padded input, C_s × h_s × w_s maps of stage s (stride 4 · 2^s).
"""

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d
from transformers import FocalNetConfig, FocalNetModel, SwinBackbone, SwinConfig

from mask_frozen_detr.detectors.official.config import BackboneConfig


class ResNetStages(nn.Module):
    """torchvision's ResNet with frozen batch normalisation (eps 1e-5)."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.first_stage = config.first_stage
        self.body = ResNet(Bottleneck, list(config.depths), norm_layer=FrozenBatchNorm2d)
        del self.body.fc

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) → C₁ (B, 256, h_0, w_0) and the maps (B, C_s, h_s, w_s) of the stages the detector reads."""
        body = self.body
        maps = body.maxpool(body.relu(body.bn1(body.conv1(pixels))))
        stages = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            maps = stage(maps)
            stages.append(maps)
        return stages[0], stages[self.first_stage :]


class SwinStages(nn.Module):
    """transformers' Swin: windows are padded and shifted at every size, as the official code does it."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.body = SwinBackbone(
            SwinConfig(
                embed_dim=config.width,
                depths=list(config.depths),
                num_heads=list(config.heads),
                window_size=config.window,
                drop_path_rate=0.0,
                out_features=[f"stage{stage + 1}" for stage in range(config.first_stage, 4)],  # type: ignore[call-arg]
            )
        )
        self.body.swin.add_module("layernorm", nn.Identity())  # of a classifier: not in a detector's checkpoint

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """images → C₁ with `width` channels, and the maps that the detector takes (`ResNetStages.forward`)."""
        found = self.body(pixels, output_hidden_states=True)
        return found.hidden_states[1], list(found.feature_maps)


class FocalNetStages(nn.Module):
    """transformers' FocalNet with convolutional patch embedding, layer scale and post-LayerNorm (the L models)."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.body = FocalNetModel(
            FocalNetConfig(
                embed_dim=config.width,
                depths=list(config.depths),
                focal_levels=[config.focal_levels] * 4,
                focal_windows=[config.window] * 4,
                normalize_modulator=config.normalize_modulator,
                use_conv_embed=True,
                use_layerscale=True,
                use_post_layernorm=True,
                drop_path_rate=0.0,
            ),
            add_pooling_layer=False,
        )
        self.body.add_module("layernorm", nn.Identity())  # of a classifier: not in a detector's checkpoint
        self.first_stage = config.first_stage
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in config.channels[config.first_stage :])

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """images → C₁ with `width` channels, and the maps that the detector takes (`ResNetStages.forward`)."""
        tokens, size = self.body.embeddings(pixels)  # (B, h_0·w_0, C_0)
        raw = []
        for stage in self.body.encoder.stages:
            # Down-sampling belongs to the stage before it: the detector reads what went into it.
            tokens, before, (*_, height, width) = stage(tokens, size)
            raw.append((before, size))
            size = (height, width)
        stages = [
            unflatten(norm(before), size)
            for norm, (before, size) in zip(self.norms, raw[self.first_stage :], strict=True)
        ]
        return unflatten(*raw[0]), stages


def unflatten(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h·w, C) → (B, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, size).contiguous()


BACKBONES = {"resnet": ResNetStages, "swin": SwinStages, "focalnet": FocalNetStages}
