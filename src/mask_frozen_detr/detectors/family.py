"""What one family of transformers' detectors needs to be loaded, called and read; the table itself is `families.py`.

Letters: B images, Q queries, d width, H_l × W_l a level.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mask_frozen_detr.errors import UserError

OLDEST = "5.17"  # the oldest transformers this project takes


@dataclass(frozen=True)
class Maps:
    """A module whose output is a (B, d, H_l, W_l) map, or holds a list of them."""

    module: str


@dataclass(frozen=True)
class Tokens:
    """Flat tokens (B, skip + Σ H_l·W_l + …, d), and the modules whose maps give the levels' shapes.

    layers: a list of encoder layers, of which one is chosen (Table 15), or a single module.
    projections: the module of one level, or a list of one a level. skip: tokens before the first cell.
    """

    layers: str
    projections: str
    skip: int = 0


Readout = tuple[Tensor, Tensor, Tensor]  # queries (B, Q, d), logits (B, Q, …), boxes (B, Q, 4)


def plain(output: Any) -> Readout:
    """What nearly all give."""
    return output.last_hidden_state, output.logits, output.pred_boxes


def detection_tokens(output: Any) -> Readout:
    """The queries are the last of the transformer's tokens."""
    return output.last_hidden_state[:, -output.logits.shape[1] :], output.logits, output.pred_boxes


def in_decoder_order(output: Any) -> Readout:
    """PPDocLayoutV2 sorts logits and boxes, not the queries: take them as the decoder's last layer gives them."""
    return (
        output.last_hidden_state,
        output.intermediate_logits[:, -1],
        output.intermediate_reference_points[:, -1],
    )


def quadrilaterals(output: Any) -> Readout:
    """Centre and four corner offsets plus 0.5, 10 numbers a box → the box around the corners."""
    quads = output.pred_boxes
    corners = quads[..., None, :2] + quads[..., 2:].unflatten(-1, (4, 2)) - 0.5  # (B, Q, 4, 2)
    low, high = corners.amin(-2), corners.amax(-2)
    return output.last_hidden_state, output.logits, torch.cat([(low + high) / 2, high - low], -1)


@dataclass(frozen=True)
class Family:
    """How to load, call and read one model type of transformers. Modules are named by their path in the model."""

    model_type: str  # as in config.json
    model_class: str | type[nn.Module]  # a name in transformers, or the class itself
    features: Maps | Tokens
    stems: Mapping[str, str] = field(default_factory=dict)  # backbone's model type → module of its earliest map
    read: Callable[[Any], Readout] = plain  # the model's output → queries, logits, boxes
    background: bool = False  # softmax with a last class for "nothing", instead of sigmoid
    detections: int | str = 100  # that its post-processing keeps of an image: a number, or a field of the configuration
    takes_mask: bool = False  # the forward pass uses pixel_mask; where not, images of different sizes go one by one
    any_size: bool = True  # takes images of any size; False: only of those its own pre-processing makes
    prompted: bool = False  # takes text, whose phrases are the classes
    cost_prefix: str | None = ""  # what stands before class_cost … in the configuration; None: no costs there
    has_loss: bool = True  # transformers has its training losses, for fine-tuning (Table 11)
    transformer: tuple[str, ...] = ("model.encoder", "model.decoder")  # that learns in a partial fine-tuning
    strides: str = ""  # of the maps E, in words
    stem_stride: str = "4"  # of the backbone's earliest map, in words
    since: str = OLDEST  # version of transformers that has it
    example: str = ""  # a published checkpoint
    backbone: str = ""  # the module that makes the stem's map and the next ones of a picture of any size; "": none does

    def describe(self) -> list[Any]:
        """What decides, besides the model, what comes out of it, as JSON: which taps, read how."""
        taps = [type(self.features).__name__, asdict(self.features), dict(self.stems)]
        read = f"{self.read.__module__}.{self.read.__qualname__}"
        return [*taps, read, self.background, self.takes_mask, self.any_size, self.prompted]

    @property
    def class_name(self) -> str:
        return self.model_class if isinstance(self.model_class, str) else self.model_class.__name__

    def load_class(self) -> Any:
        """The model's class. Raises UserError where the installed transformers is too old for it."""
        if not isinstance(self.model_class, str):
            return self.model_class
        found = getattr(transformers, self.model_class, None)
        if found is None:
            raise UserError(
                f"model type {self.model_type!r} needs transformers {self.since} or newer, found "
                f"{transformers.__version__}: pip install -U transformers"
            )
        return found
