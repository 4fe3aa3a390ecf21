"""Frozen detectors from transformers: one class for all families, what differs stands in `families.py`.

Letters: B images, H_l × W_l level l, d width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from mask_frozen_detr.detectors.base import (
    Detections,
    DetectorInfo,
    FrozenDetector,
    Identity,
    MatchingCosts,
    ScoreRule,
    hash_weights,
    named_classes,
)
from mask_frozen_detr.detectors.families import FAMILIES, FIRST_STAGES, Family
from mask_frozen_detr.detectors.preprocessing import Preprocessing
from mask_frozen_detr.errors import UserError

DEFAULT_ENCODER_LAYER = 4  # Table 15


class TransformersDetector(FrozenDetector):
    """A detector of transformers with taps where its outputs do not hand out the maps."""

    def __init__(
        self,
        model: nn.Module,
        info: DetectorInfo,
        family: Family,
        encoder_layer: int = DEFAULT_ENCODER_LAYER,
    ):
        super().__init__(model, info)
        self.family = family
        self._taken: dict[str, Tensor] = {}
        stage = first_stage(model.get_submodule(family.backbone))
        if stage is not None:
            self._tap("stem", stage)
        self._levels = 0
        if family.features == "encoder_tokens":
            layers = model.get_submodule(family.encoder_layers)
            self._tap("tokens", layers[min(encoder_layer, len(layers)) - 1])
            projections = list(model.get_submodule(family.projections))
            self._levels = len(projections)
            for level, projection in enumerate(projections):
                self._tap(f"level{level}", projection)

    def _tap(self, name: str, module: nn.Module) -> None:
        def keep(_module, _inputs, output):
            self._taken[name] = output if isinstance(output, Tensor) else output[0]

        module.register_forward_hook(keep)

    def detect(self, pixel_values: Tensor, pixel_mask: Tensor) -> Detections:
        extra = {"pixel_mask": pixel_mask} if self.family.takes_mask else {}
        output = self.model(pixel_values=pixel_values, **extra)
        stem = self._taken.get("stem")
        if self._levels:
            shapes = [self._taken[f"level{level}"].shape[2:] for level in range(self._levels)]
            tokens = self._taken["tokens"].transpose(1, 2)  # (B, d, S)
            pieces = tokens.split([h * w for h, w in shapes], dim=2)
            features = [piece.unflatten(2, tuple(shape)) for piece, shape in zip(pieces, shapes, strict=True)]
        else:
            features = list(output.encoder_last_hidden_state)
        self._taken.clear()
        if stem is not None and stem.shape[3] * 4 < pixel_values.shape[3]:
            stem = None  # a backbone whose first stage is coarser than stride 4
        return Detections(output.last_hidden_state, output.logits, output.pred_boxes, features, stem)


def first_stage(backbone: nn.Module) -> nn.Module | None:
    """The module whose output is C₁, or None where the backbone has no such stage."""
    modules = dict(backbone.named_modules())
    return next((modules[path] for path in FIRST_STAGES if path in modules), None)


class TransformersPreprocessing(Preprocessing):
    """A detector's own image processor."""

    def __init__(self, processor):
        self.processor = processor
        size = dict(processor.size)
        self.resizes_freely = "height" not in size or size["height"] is None
        self._side = None if self.resizes_freely else (int(size["height"]), int(size["width"]))

    def __call__(self, image, resize: bool = True) -> Tensor:
        keep = {} if resize or not self.resizes_freely else {"do_resize": False}
        return self.processor(images=image, return_tensors="pt", **keep)["pixel_values"][0]

    def probe_size(self) -> tuple[int, int]:
        return self._side or (256, 256)

    def describe(self) -> dict:
        return {key: value for key, value in self.processor.to_dict().items() if not key.startswith("_")}


def load_transformers_detector(
    name: str, revision: str | None = None, encoder_layer: int = DEFAULT_ENCODER_LAYER
) -> TransformersDetector:
    """A detector by hub id or folder.

    Raises UserError for a folder without a configuration, an unreachable id, a model that is not a DETR, or weights
    that do not fill the model.
    """
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        what = "the folder has no readable config.json" if Path(name).is_dir() else "no such folder or hub model"
        raise UserError(
            f"{name}: {what}, expected a detector in transformers' format ({_first_line(error)})"
        ) from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(
            f"{name}: its model type is {config.model_type!r}, expected one of {', '.join(sorted(FAMILIES))}"
        )
    try:
        model, report = AutoModelForObjectDetection.from_pretrained(
            name, config=config, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: the weights cannot be read: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{name}: {len(missing)} weights are missing from the file, the first is {missing[0]!r}; "
            "expected a trained object detection model"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: no preprocessor_config.json that can be read: {_first_line(error)}") from error
    prefix = family.cost_prefix
    costs = MatchingCosts(*(getattr(config, f"{prefix}{cost}_cost") for cost in ("class", "bbox", "giou")))
    labels = [config.id2label[index] for index in sorted(config.id2label)]
    info = DetectorInfo(
        identity=Identity(
            name, getattr(config, "_commit_hash", None) or revision, hash_weights(model), config.model_type
        ),
        class_names=named_classes(labels, config.num_labels),
        preprocessing=TransformersPreprocessing(processor),
        costs=costs,
        score_rule=ScoreRule("sigmoid"),
    )
    return TransformersDetector(model, info, family, encoder_layer)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
