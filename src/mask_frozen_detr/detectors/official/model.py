"""H-Deformable-DETR and DINO as their official checkpoints define them: one model, see `config.OfficialConfig`.

Letters: B images, H × W padded input, S tokens of all levels, L levels, Q queries, K classes, d width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_frozen_detr.detectors.official.backbones import BACKBONES
from mask_frozen_detr.detectors.official.config import OfficialConfig
from mask_frozen_detr.detectors.official.loss import detection_loss
from mask_frozen_detr.detectors.official.output import OfficialOutput
from mask_frozen_detr.detectors.official.position import sine_of_boxes, sine_of_cells
from mask_frozen_detr.detectors.official.proposals import best_proposals, pick, proposal_logits
from mask_frozen_detr.detectors.official.transformer import MLP, Decoder, Encoder, Levels
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.ops.sampling import reference_points


class Transformer(nn.Module):
    """The parts that checkpoints keep under `transformer.`; `OfficialDetr` runs them."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        d = config.width
        self.level_embed = nn.Parameter(torch.randn(config.levels, d))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.enc_output = nn.Linear(d, d)
        self.enc_output_norm = nn.LayerNorm(d)
        if not config.position_per_layer:
            self.pos_trans = nn.Linear(2 * d, 2 * d)
            self.pos_trans_norm = nn.LayerNorm(2 * d)


class OfficialDetr(nn.Module):
    """Images to boxes, query states and encoder maps.

    encoder_layer: after which encoder layer the maps are taken, counted from 1 (Table 15: the paper takes the 4th).
    """

    def __init__(self, config: OfficialConfig, encoder_layer: int = 4):
        super().__init__()
        if not 1 <= encoder_layer <= config.encoder_layers:
            raise UserError(
                f"encoder_layer: found {encoder_layer}, expected 1 to {config.encoder_layers}, the encoder's layers"
            )
        self.config, self.encoder_layer = config, encoder_layer
        self.backbone = BACKBONES[config.backbone.kind](config.backbone)
        self.input_proj = input_projections(config)
        self.transformer = Transformer(config)
        self.content = nn.Embedding(config.content_rows, config.width) if config.content_rows else None
        self.class_embed = head_list(lambda: nn.Linear(config.width, config.num_classes), config)
        self.bbox_embed = head_list(lambda: MLP(config.width, config.width, config.width, 4), config)
        self.proposal_class = nn.Linear(config.width, config.num_classes)
        self.proposal_box = MLP(config.width, config.width, config.width, 4)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> OfficialOutput:
        """(B, 3, H, W) normalised RGB, zero at the padding, and its (B, H, W) mask, 1 = image.

        Raises UserError where the image has fewer feature cells than the detector queries.
        """
        stem, stages = self.backbone(pixel_values)
        maps = self.project(stages)
        masks = [F.interpolate(pixel_mask[None].float(), size=level.shape[2:])[0].bool() for level in maps]  # nearest
        levels = Levels.of(masks)
        memory, kept = self.encode(maps, masks, levels)
        index, logits, boxes = self.propose(memory, levels)

        start = pick(boxes, index).detach()  # (B, Q, 4) logits
        content, position = self.queries(start)
        states, layer_boxes = self.transformer.decoder(
            content, position, start.sigmoid(), memory, levels, self.bbox_embed
        )
        layer_logits = [head(state) for head, state in zip(self.class_embed, states, strict=True)]
        if self.config.score_best_class:  # DINO trains the chosen proposals, Deformable DETR all of them
            logits, boxes = pick(logits, index), pick(boxes, index)
        return OfficialOutput(
            states=states[-1],
            logits=layer_logits[-1],
            boxes=layer_boxes[-1],
            layer_logits=layer_logits,
            layer_boxes=layer_boxes,
            proposal_logits=logits,
            proposal_boxes=boxes.sigmoid(),
            features=levels.split(kept),
            stem=stem,
        )

    def project(self, stages: list[Tensor]) -> list[Tensor]:
        """The backbone's maps → (B, d, H_l, W_l) each, with the coarser levels on top."""
        maps = [project(stage) for project, stage in zip(self.input_proj, stages, strict=False)]
        for extra, project in enumerate(self.input_proj[len(stages) :]):
            maps.append(project(stages[-1] if extra == 0 else maps[-1]))  # the first sees the *raw* last map
        return maps

    def encode(self, maps: list[Tensor], masks: list[Tensor], levels: Levels) -> tuple[Tensor, Tensor]:
        """(B, d, H_l, W_l) maps and their (B, H_l, W_l) masks → tokens (B, S, d) after the last encoder layer and
        after `encoder_layer`."""
        config, level_embed = self.config, self.transformer.level_embed
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
        position = torch.cat(
            [
                sine_of_cells(mask, config.width, config.temperature, config.cell_offset).to(tokens.dtype) + embed
                for mask, embed in zip(masks, level_embed, strict=True)
            ],
            1,
        )
        references = reference_points(levels.shapes, levels.sizes, levels.valid_sizes)
        return self.transformer.encoder(tokens, position, references, levels, self.encoder_layer)

    def propose(self, memory: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """memory (B, S, d) → the Q best tokens (B, Q), all tokens' class logits (B, S, K) and box logits (B, S, 4)."""
        grid, keep = proposal_logits(levels)
        transformer = self.transformer
        kept = transformer.enc_output_norm(transformer.enc_output(memory.masked_fill(~keep[..., None], 0.0)))
        logits = self.proposal_class(kept)
        index = best_proposals(logits, self.config.num_queries, self.config.score_best_class)
        return index, logits, self.proposal_box(kept).float() + grid

    def queries(self, start: Tensor) -> tuple[Tensor, Tensor | None]:
        """Proposals' logits (B, Q, 4) → content (B, Q, d), and the position for all layers or None."""
        position = None
        if not self.config.position_per_layer:
            transformer = self.transformer
            encoding = sine_of_boxes(start.sigmoid(), self.config.width // 2)  # (B, Q, 2 d)
            encoding = transformer.pos_trans(encoding.to(transformer.pos_trans.weight.dtype))
            position, content = transformer.pos_trans_norm(encoding).chunk(2, -1)
        if self.content is not None:
            content = self.content.weight[: self.config.num_queries].expand(start.shape[0], -1, -1)
        return content, position

    def detection_loss(self, outputs: OfficialOutput, targets: list[dict]) -> tuple[Tensor, dict[str, Tensor]]:
        """The authors' training losses; see `loss.detection_loss`."""
        return detection_loss(outputs, targets, self.config)


def input_projections(config: OfficialConfig) -> nn.ModuleList:
    """1 × 1 convolutions for the backbone's maps, 3 × 3 ones of stride 2 for the levels on top; GroupNorm(32)."""
    channels = config.backbone.channels[config.backbone.first_stage :]
    convolutions = [nn.Conv2d(width, config.width, 1) for width in channels]
    for extra in range(config.levels - len(channels)):
        width = channels[-1] if extra == 0 else config.width
        convolutions.append(nn.Conv2d(width, config.width, 3, stride=2, padding=1))
    return nn.ModuleList(nn.Sequential(convolution, nn.GroupNorm(32, config.width)) for convolution in convolutions)


def head_list(build: Callable[[], nn.Module], config: OfficialConfig) -> nn.ModuleList:
    """One head a decoder layer; the same one for all where they are shared."""
    if config.shared_heads:
        return nn.ModuleList([build()] * config.decoder_layers)
    return nn.ModuleList(build() for _ in range(config.decoder_layers))
