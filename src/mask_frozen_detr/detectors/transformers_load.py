"""From a hub id or a folder in transformers' format to a frozen detector."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoTokenizer,
    PreTrainedConfig,
)

from mask_frozen_detr.detectors.base import (
    DetectorInfo,
    Identity,
    MatchingCosts,
    ScoreRule,
    hash_weights,
    named_classes,
)
from mask_frozen_detr.detectors.families import FAMILIES
from mask_frozen_detr.detectors.family import Family, Maps
from mask_frozen_detr.detectors.prompt import Prompt, read_prompt
from mask_frozen_detr.detectors.transformers_detector import (
    DEFAULT_ENCODER_LAYER,
    TransformersDetector,
    backbone_type,
)
from mask_frozen_detr.detectors.transformers_preprocessing import TransformersPreprocessing
from mask_frozen_detr.errors import UserError


def load_transformers_detector(
    name: str,
    revision: str | None = None,
    encoder_layer: int = DEFAULT_ENCODER_LAYER,
    prompt: str | Sequence[str] | None = None,
) -> TransformersDetector:
    """A detector by hub id or folder; the family is found from its configuration. Arguments as of `load_detector`.

    Raises UserError for a folder without a configuration, an unreachable id, a model of no known family, one that
    the installed transformers lacks, weights that do not fill the model, a prompt that is missing or idle.
    """
    family = find_family(name, revision)
    names = _prompt_names(name, family, prompt)
    if encoder_layer < 1:
        raise UserError(f"encoder_layer: found {encoder_layer}, expected 1 for the first encoder layer, 2 …")
    model = _load_model(name, family, revision)
    config: Any = model.config
    processor = _load(name, "preprocessor_config.json", AutoImageProcessor, revision)
    text = None
    if names is not None:
        text = Prompt(names, _load(name, "tokenizer", AutoTokenizer, revision), config.max_text_len)
    info = DetectorInfo(
        identity=Identity(
            name,
            getattr(config, "_commit_hash", None) or revision,
            hash_weights(model),
            config.model_type,
            prompt=None if text is None else text.text,
        ),
        class_names=names or class_names(config),
        preprocessing=TransformersPreprocessing(processor, family.any_size),
        costs=matching_costs(config, family),
        score_rule=score_rule(config, family),
    )
    detector = TransformersDetector(model, info, family, encoder_layer, text)
    info.identity = replace(info.identity, encoder_layer=detector.encoder_layer)
    return detector


def class_names(config: Any) -> list[str]:
    """One a class index, "" where there is no name."""
    return named_classes([config.id2label[index] for index in sorted(config.id2label)], config.num_labels)


def score_rule(config: Any, family: Family) -> ScoreRule:
    """How the family's own post-processing scores and chooses."""
    count = family.detections if isinstance(family.detections, int) else getattr(config, family.detections)
    return ScoreRule("softmax" if family.background else "sigmoid", count, best_only=family.prompted)


def matching_costs(config: Any, family: Family) -> MatchingCosts:
    """Those that the configuration names."""
    if family.cost_prefix is None:
        return MatchingCosts()
    return MatchingCosts(*(getattr(config, f"{family.cost_prefix}{cost}_cost") for cost in ("class", "bbox", "giou")))


def find_family(name: str, revision: str | None = None) -> Family:
    """Raises UserError where the configuration is missing or of a model type that the table does not have."""
    try:
        settings, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        if not settings:  # what transformers gives for a file that is not there
            raise OSError("config.json is missing or empty")
    except (OSError, ValueError) as error:
        what = "the folder has no readable config.json" if Path(name).is_dir() else "no such folder or hub model"
        raise UserError(
            f"{name}: {what}, expected a detector in transformers' format ({_first_line(error)})"
        ) from error
    model_type = str(settings.get("model_type"))
    if model_type not in FAMILIES:
        raise UserError(f"{name}: {explain_unknown(name, model_type, revision)}")
    return FAMILIES[model_type]


def explain_unknown(name: str, model_type: str, revision: str | None) -> str:
    """Why a model cannot be taken; for one that looks like a DETR, which taps were looked for."""
    known = f"expected one of {', '.join(sorted(FAMILIES))}, or one that register_detector has added"
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        model = AutoModelForObjectDetection.from_config(config)
    except (OSError, ValueError, KeyError, ImportError):
        return f"its model type is {model_type!r}, {known}"
    if not _has_detr_output(type(model)):
        return f"its model type is {model_type!r}, whose output has no logits and pred_boxes as a DETR's; {known}"
    modules = {path for path, _ in model.named_modules()}
    maps = sorted({f.features.module for f in FAMILIES.values() if isinstance(f.features, Maps)})
    layers = sorted({f.features.layers for f in FAMILIES.values() if not isinstance(f.features, Maps)})
    projections = sorted({f.features.projections for f in FAMILIES.values() if not isinstance(f.features, Maps)})
    stems = sorted({path for f in FAMILIES.values() for path in f.stems.values()})
    looked = "; ".join(
        f"{what}: " + ", ".join(f"{path} ({'found' if path in modules else 'absent'})" for path in paths)
        for what, paths in (
            ("modules that give maps", maps),
            ("encoder layers that give tokens", layers),
            ("projections that give their shapes", projections),
            ("stride-4 stems", [path for path in stems if path in modules] or stems),
        )
    )
    return (
        f"its model type {model_type!r} is not in the table, but {type(model).__name__} looks like a DETR: its output "
        f"has logits and pred_boxes. Looked for {looked}. The backbone is {backbone_type(config)!r}. "
        f"register_detector(Family({model_type!r}, {type(model).__name__!r}, features=…, stems=…)) makes it known: "
        "see docs/detectors.md"
    )


def _has_detr_output(model_class: type) -> bool:
    """Whether the file of the model, or of a class it derives from, defines an output with logits and pred_boxes."""
    return any(
        {"logits", "pred_boxes"} <= set(getattr(value, "__dataclass_fields__", ()))
        for base in model_class.__mro__
        for value in vars(sys.modules[base.__module__]).values()
    )


def _prompt_names(name: str, family: Family, prompt: str | Sequence[str] | None) -> list[str] | None:
    if family.prompted and prompt is None:
        raise UserError(
            f"{name}: a detector of family {family.model_type!r} finds what a prompt names, found none; "
            "expected prompt = 'cat. dog.', one phrase a class"
        )
    if not family.prompted and prompt is not None:
        raise UserError(f"{name}: prompt: found {prompt!r}, but family {family.model_type!r} has classes of its own")
    return None if prompt is None else read_prompt(prompt)


def _load_model(name: str, family: Family, revision: str | None) -> nn.Module:
    try:
        model_class = family.load_class()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    try:
        model, report = model_class.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except ImportError as error:
        raise UserError(f"{name}: a package is missing: {_first_line(error)}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: the weights cannot be read: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{name}: {len(missing)} weights are missing from the file, the first is {missing[0]!r}; "
            "expected a trained object detection model"
        )
    return model


def _load(name: str, what: str, kind: Any, revision: str | None) -> Any:
    try:
        return kind.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name}: no {what} that can be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
