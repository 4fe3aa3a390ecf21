"""What every frozen detector gives the mask network (paper, section 3.1 and Figure 2c).

Letters: B images, Q queries, K classes, d query width, H × W padded input, H_l × W_l a feature level.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mask_frozen_detr.detectors.config import FineTune
from mask_frozen_detr.detectors.finer_look import FinerLook, unpack_finer
from mask_frozen_detr.detectors.identity import Identity, hash_tensors, hash_weights
from mask_frozen_detr.detectors.preprocessing import Preprocessing
from mask_frozen_detr.errors import UserError, reason

LARGEST_PROBE = 4096 * 4096  # pixels of a detector's own size
# Modules for classes and boxes that some models keep within their decoder, shared with their heads.
HEADS = {"class_embed", "bbox_embed", "pre_bbox_head", "lqe_layers", "reg_scale", "up"}
Labels = Sequence[Mapping[str, Tensor]]  # an image each: class_labels (T,); boxes (T, 4), cx, cy, w, h in [0, 1]


@dataclass
class Detections:
    """One frozen forward pass.

    queries: (B, Q, d), the last decoder layer's states.
    logits: (B, Q, K), class logits as the detector gives them.
    boxes: (B, Q, 4), cx, cy, w, h in [0, 1] relative to the **unpadded** image.
    features: (B, d_l, H_l, W_l) each, finest first: E₁ … E_L.
    stem: (B, C, h, w), the backbone's earliest map, at stride 4 (C₁) where it has one, or None; of a finer look at
        stride 2.
    pixels: (B, 3, H, W), the input itself, for mask networks that learn a stem of their own.
    loss: the detector's own training loss, where it is fine-tuned and targets were given.
    stages: (B, C_n, h_n, w_n) each, the backbone's maps of a finer look between the stem and E₁, finest first.
    """

    queries: Tensor
    logits: Tensor
    boxes: Tensor
    features: list[Tensor]
    stem: Tensor | None
    pixels: Tensor | None = None
    loss: Tensor | None = None
    stages: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class DetectorShapes:
    """All that the mask network must know of a detector to be built."""

    query_width: int
    feature_widths: tuple[int, ...]  # E₁ … E_L
    strides: tuple[int, ...]  # input pixels a cell of E₁ … E_L
    stem_width: int | None  # channels of the backbone's earliest map; None where there is none
    num_classes: int  # K without a background class; 1 where a prompt names the classes, so that it may change
    stem_stride: int = 4  # input pixels a cell of the backbone's earliest map
    stage_widths: tuple[int, ...] = ()  # channels of the maps that a finer look adds to it
    stage_strides: tuple[int, ...] = ()  # input pixels a cell of them


@dataclass(frozen=True)
class MatchingCosts:
    """The detector's own Hungarian matching costs."""

    class_cost: float = 2.0
    bbox_cost: float = 5.0
    giou_cost: float = 2.0


@dataclass(frozen=True)
class ScoreRule:
    """How logits become scores: `sigmoid` per class, or `softmax` with a last background class."""

    kind: str = "sigmoid"
    best_only: bool = False  # a query stands for its best class alone; with softmax it always does

    def __post_init__(self) -> None:
        if self.kind not in ("sigmoid", "softmax"):
            raise ValueError(f"score rule: found {self.kind!r}, expected 'sigmoid' or 'softmax'")

    @property
    def one_label(self) -> bool:
        """Whether a query has one class, not several."""
        return self.best_only or self.kind == "softmax"

    def scores(self, logits: Tensor) -> Tensor:
        """(…, K or K + 1) logits → (…, K) probabilities."""
        return logits.sigmoid() if self.kind == "sigmoid" else logits.softmax(-1)[..., :-1]


@dataclass
class DetectorInfo:
    """Everything about a detector that is not its forward pass."""

    identity: Identity
    class_names: list[str]  # one a class index; "" where the detector has no name for it
    preprocessing: Preprocessing
    costs: MatchingCosts = field(default_factory=MatchingCosts)
    score_rule: ScoreRule = field(default_factory=ScoreRule)
    path: Path | None = None  # where it lies on this machine, absolute; None: on the hub


class FrozenDetector(nn.Module, ABC):
    """A detector in eval mode, without trainable parameters, run under `no_grad`: until `unfreeze` (Table 11).

    `no_grad`, not `inference_mode`: tensors of the latter cannot enter the mask network's backward.
    """

    def __init__(self, model: nn.Module, info: DetectorInfo):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.info = info
        self.finetuned: FineTune = "none"
        self.looks_finer = False
        self._shapes: DetectorShapes | None = None
        self.eval()

    @abstractmethod
    def detect(self, pixel_values: Tensor, pixel_mask: Tensor | None, targets: Labels | None = None) -> Detections:
        """The forward pass itself; see `forward`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load_detector(folder)` needs into an existing folder, after fine-tuning."""

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None, targets: Labels | None = None) -> Detections:
        """(B, 3, H, W) pre-processed images and their (B, H, W) mask, 1 = image, to `Detections`.

        With a finer look images are those that its pre-processing packs, (B, 15, H, W). The mask best lies on the host:
        to look at it there, a GPU need not be waited for. None: nothing is padded.
        targets: ground truth of each image, for the detector's own loss; of no use to one that is frozen.
        """
        pixels, finer = unpack_finer(pixel_values) if self.looks_finer else (pixel_values, None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.finetuned != "none"):
            detections = replace(self.detect(self._laid_out(pixels), pixel_mask, targets), pixels=pixels)
            return detections if finer is None else self.look_again(detections, finer)

    def look_again(self, detections: Detections, finer: Tensor) -> Detections:
        """The second part of `forward`: the backbone's maps of a finer look that are finer than E₁, added.

        finer: (B, 3, 2 · H, 2 · W), the pictures that the detections are of.
        """
        maps = self.backbone_maps(self._laid_out(finer))
        stem, *stages = [one for one in maps if one.shape[3] > detections.features[0].shape[3]]
        return replace(detections, stem=stem, stages=stages)

    def _laid_out(self, pixels: Tensor) -> Tensor:
        if pixels.device.type != "cpu" or self.finetuned != "none":
            return pixels
        # The maps follow in it, and convolutions are faster; backward, torch may destroy memory (see docs).
        return pixels.contiguous(memory_format=torch.channels_last)

    def backbone_maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps of the backbone alone, finest first, for (B, 3, H, W) pixels of any size.

        Raises UserError where it does not run alone, as `finer_look_problem` tells before.
        """
        raise UserError(f"{self.info.identity.name}: finer_look: {self.finer_look_problem()}")

    def finer_look_problem(self) -> str:
        """Why this detector cannot look at a picture finer than it does, "" where it can."""
        return "its backbone does not run alone"

    def with_finer_look(self, wanted: bool = True) -> "FrozenDetector":
        """This detector with a finer look besides, or without: the same where it has what is wanted.

        Weights are shared, and so is the model; pre-processing and shapes are the other's own. Raises UserError, which
        names the detector, where it cannot look finer.
        """
        if wanted == self.looks_finer:
            return self
        if wanted and (problem := self.finer_look_problem()):
            raise UserError(f"{self.info.identity.name}: finer_look: {problem}; leave it out")
        other = copy.copy(self)
        preprocessing = self.info.preprocessing
        made = preprocessing.look if isinstance(preprocessing, FinerLook) else FinerLook(preprocessing)
        other.info = replace(self.info, preprocessing=made)
        other.looks_finer, other._shapes = wanted, None
        return other

    @property
    def knows_padding(self) -> bool:
        """Whether `detect` takes images of different sizes in one batch, by its mask; else it goes one by one."""
        return True

    @property
    def transformer_parts(self) -> tuple[str, ...]:
        """Paths in the model of the transformer's encoder and decoder, for `unfreeze`; none where it has none."""
        return ()

    def hash_checkpoint(self) -> str:
        """`Identity.weights` of the weights as they are now: what a load of all that `save` writes would find."""
        return hash_tensors(self.model.state_dict())

    def has_weights(self, identity: Identity) -> bool:
        """Whether these are the weights of that identity, also where an older version hashed them."""
        ours = self.info.identity
        hashed = ours.weights if identity.scheme == ours.scheme else hash_weights(self.model)
        return hashed == identity.weights

    def unfreeze(self, part: FineTune) -> list[nn.Parameter]:
        """Let `part` of the detector learn (Table 11), and return its parameters.

        "full": everything. "partial": the layers of the transformer's encoder and decoder, with the norms, the query
        positions and the maps between levels that are part of them. Not the backbone, a text encoder, the projections
        of the backbone's maps, embeddings of levels and queries, proposals, and the heads for classes and boxes, also
        where a model keeps them within its decoder. "none": nothing, as before.

        Dropout stays off, and batch norms keep their statistics. Raises UserError where that is not possible.
        """
        if part == "none":
            self.model.requires_grad_(False)
            self.finetuned = part
            return []
        prefixes = tuple(f"{path}." for path in self.transformer_parts)
        chosen = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if part == "full" or (name.startswith(prefixes) and HEADS.isdisjoint(name.split(".")))
        }
        if not chosen:
            raise UserError(
                f"finetune: found {part!r}, but {self.info.identity.name} has no transformer apart from its backbone; "
                "expected 'none' or 'full'"
            )
        self.model.requires_grad_(False)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        self.finetuned = part
        return list(chosen.values())

    def train(self, mode: bool = True) -> "FrozenDetector":
        """Stays in eval mode: batch-norm statistics and dropout are part of what is frozen."""
        return super().train(False)

    @property
    def shapes(self) -> DetectorShapes:
        """Widths and strides, read off one small forward pass the first time they are asked for."""
        if self._shapes is None:
            try:
                self._shapes = self._probe_shapes()
            except UserError:
                raise
            except Exception as error:  # whatever settings that do not go together bring about
                raise UserError(
                    f"{self.info.identity.name}: the detector cannot look at a picture of its own size: {reason(error)}"
                ) from error
        return self._shapes

    def _probe_shapes(self) -> DetectorShapes:
        height, width = self.info.preprocessing.probe_size()
        device = next(self.model.parameters()).device
        if height * width > LARGEST_PROBE:
            raise UserError(
                f"{self.info.identity.name}: its pre-processing makes pictures of {width} × {height} pixels, expected "
                f"at most {LARGEST_PROBE:,} pixels"
            )
        channels, dtype = self.info.preprocessing.channels, next(self.model.parameters()).dtype
        pixel_values = torch.zeros(1, channels, height, width, device=device, dtype=dtype)
        detections = self(pixel_values, torch.ones(1, height, width, dtype=torch.long, device=device))
        background = 1 if self.info.score_rule.kind == "softmax" else 0
        return DetectorShapes(
            query_width=detections.queries.shape[-1],
            feature_widths=tuple(level.shape[1] for level in detections.features),
            strides=tuple(round(height / level.shape[2]) for level in detections.features),
            stem_width=None if detections.stem is None else detections.stem.shape[1],
            num_classes=1 if self.info.identity.prompt else detections.logits.shape[-1] - background,
            stem_stride=4 if detections.stem is None else round(height / detections.stem.shape[2]),
            stage_widths=tuple(stage.shape[1] for stage in detections.stages),
            stage_strides=tuple(round(height / stage.shape[2]) for stage in detections.stages),
        )


def named_classes(names: Sequence[str], num_classes: int) -> list[str]:
    """Class names padded with "" to `num_classes`; unnamed placeholders (LABEL_3, N/A) become ""."""
    known = ["" if name in ("N/A", "") or name.startswith("LABEL_") else name for name in names]
    return (known + [""] * num_classes)[:num_classes]
