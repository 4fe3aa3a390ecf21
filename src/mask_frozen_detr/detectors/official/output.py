"""What an `OfficialDetr` gives. Letters: B images, Q queries, K classes, d width, H × W padded input."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class OfficialOutput:
    """One forward pass. Boxes are cx, cy, w, h in [0, 1] of the **unpadded** image.

    states (B, Q, d), logits (B, Q, K), boxes (B, Q, 4): of the last decoder layer.
    layer_logits, layer_boxes: the same of every decoder layer, for the training losses.
    proposal_logits, proposal_boxes: of every token, or of the Q chosen ones where their best class chose them.
    features: (B, d, H_l, W_l) each, finest first: the encoder's maps after the layer asked for.
    stem: (B, C, H/4, W/4), the backbone's C₁.
    """

    states: Tensor
    logits: Tensor
    boxes: Tensor
    layer_logits: list[Tensor]
    layer_boxes: list[Tensor]
    proposal_logits: Tensor
    proposal_boxes: Tensor
    features: list[Tensor]
    stem: Tensor
