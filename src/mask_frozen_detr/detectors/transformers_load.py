"""From a hub id or a folder in transformers' format to a frozen detector."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, AutoTokenizer
from transformers.initialization import no_init_weights
from transformers.utils import logging

from mask_frozen_detr.detectors.base import (
    DetectorInfo,
    MatchingCosts,
    ScoreRule,
    named_classes,
)
from mask_frozen_detr.detectors.families import FAMILIES
from mask_frozen_detr.detectors.family import Family, Maps
from mask_frozen_detr.detectors.identity import SCHEME, Identity, hash_settings, hash_tensors
from mask_frozen_detr.detectors.prompt import Prompt, read_prompt
from mask_frozen_detr.detectors.transformers_detector import (
    DEFAULT_ENCODER_LAYER,
    TransformersDetector,
    backbone_type,
)
from mask_frozen_detr.detectors.transformers_folder import (
    CONFIG,
    PROCESSOR,
    DetectorFolder,
    check_class_names,
    check_numbers,
    local_backbone,
    open_folder,
)
from mask_frozen_detr.detectors.transformers_preprocessing import TransformersPreprocessing
from mask_frozen_detr.errors import UserError, printable, reason

TRIED_PICTURE = (67, 61)  # width, height: no detector's own, whose pictures would not be resized
# Of a configuration: names, versions and the types of stored numbers, which change no output.
BOOKKEEPING = {
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "name_or_path",
}


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
    folder = open_folder(name, revision)
    family = find_family(folder)
    names = _prompt_names(name, family, prompt)
    if encoder_layer < 1:
        raise UserError(f"encoder_layer: found {encoder_layer}, expected 1 for the first encoder layer, 2 …")
    weights = folder.read_weights()
    model = _build_model(folder, family, weights)
    config: Any = model.config
    preprocessing = TransformersPreprocessing(_load(folder, PROCESSOR, AutoImageProcessor), family.any_size)
    _check_preprocessing(folder, preprocessing)
    text = None
    if names is not None:
        text = Prompt(names, _load(folder, "tokenizer", AutoTokenizer), config.max_text_len)
    info = DetectorInfo(
        identity=Identity(
            name,
            folder.commit,
            hash_tensors(weights),
            config.model_type,
            prompt=None if text is None else text.text,
            settings=hash_settings(deciding(folder.config), family.describe()),
            scheme=SCHEME,
        ),
        class_names=names or class_names(config),
        preprocessing=preprocessing,
        costs=matching_costs(config, family),
        score_rule=score_rule(family),
    )
    detector = TransformersDetector(model, info, family, encoder_layer, text)
    info.identity = replace(info.identity, encoder_layer=detector.encoder_layer)
    return detector


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration can change outputs; class names are compared by themselves."""
    return {key: value for key, value in config.items() if key not in BOOKKEEPING and not key.startswith("_")}


def class_names(config: Any) -> list[str]:
    """One a class index, "" where there is no name."""
    return named_classes([config.id2label[index] for index in sorted(config.id2label)], config.num_labels)


def score_rule(family: Family) -> ScoreRule:
    """How the family's own post-processing scores."""
    return ScoreRule("softmax" if family.background else "sigmoid", best_only=family.prompted)


def matching_costs(config: Any, family: Family) -> MatchingCosts:
    """The costs of the detector's own matching, as its configuration names them."""
    if family.cost_prefix is None:
        return MatchingCosts()
    return MatchingCosts(*(getattr(config, f"{family.cost_prefix}{cost}_cost") for cost in ("class", "bbox", "giou")))


def find_family(folder: DetectorFolder) -> Family:
    """Raises UserError where the configuration is of a model type that the table does not have."""
    model_type = str(folder.config.get("model_type"))
    if model_type not in FAMILIES:
        raise UserError(f"{folder.name}: {explain_unknown(folder, model_type)}")
    return FAMILIES[model_type]


def explain_unknown(folder: DetectorFolder, model_type: str) -> str:
    """Why a model cannot be taken; for one that looks like a DETR, which taps were looked for."""
    known = f"expected one of {', '.join(sorted(FAMILIES))}, or one that register_detector has added"
    try:
        check_numbers(folder.path / CONFIG, folder.config, tensors=1_000, values=100_000_000)
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForObjectDetection.from_config(config, trust_remote_code=False)
    except Exception:  # whatever the settings of a model that is not known bring about
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


def _build_model(folder: DetectorFolder, family: Family, weights: dict[str, Tensor]) -> nn.Module:
    """The model with its weights, in float32. Raises UserError where they do not fill it, before it takes memory."""
    path = folder.path / CONFIG
    try:
        model_class = family.load_class()
    except UserError as error:
        raise UserError(f"{folder.name}: {error}") from error
    values = sum(value.numel() for value in weights.values())
    check_class_names(path, folder.config)
    check_numbers(path, folder.config, len(weights), values)
    try:
        config = model_class.config_class.from_dict(local_backbone(path, folder.config))
        with torch.device("meta"), no_init_weights():
            asked = sum(parameter.numel() for parameter in model_class(config).parameters())
        if asked > 2 * values + 1_000_000:
            raise UserError(f"{path}: asks for {asked:,} weights, but the folder holds {values:,}")
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{folder.name}: a package is missing: {reason(error)}") from error
    except Exception as error:  # whatever settings that do not go together bring about
        raise UserError(f"{folder.name}: {CONFIG} and the weights do not make a model: {reason(error)}") from error
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{path}: asks for {printable(key)} of shape {tuple(expected)}, but the weights beside it have "
            f"{tuple(found)}; expected both of one detector"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder.name}: {len(missing)} weights are missing from the file, the first is {missing[0]!r}; "
            "expected a trained object detection model"
        )
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back transformers' report of the weights, letters in bold: what is wrong with them is an error here."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _check_preprocessing(folder: DetectorFolder, preprocessing: TransformersPreprocessing) -> None:
    """Raises UserError where a picture cannot be prepared: transformers takes settings of any kind until then."""
    try:
        prepared = preprocessing(Image.new("RGB", TRIED_PICTURE))
    except Exception as error:  # whatever damaged settings bring about
        raise UserError(f"{folder.path / PROCESSOR}: no picture can be prepared by it: {reason(error)}") from error
    shape = tuple(prepared.shape)
    if len(shape) != 3 or shape[0] != 3:
        raise UserError(f"{folder.path / PROCESSOR}: makes {shape} of a picture, expected (3, height, width)")
    if not prepared.isfinite().all():
        raise UserError(
            f"{folder.path / PROCESSOR}: a black picture gives values that are no numbers, expected image_mean, "
            "image_std and rescale_factor that are finite, and no image_std of 0"
        )


def _load(folder: DetectorFolder, what: str, kind: Any) -> Any:
    try:
        return kind.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever damaged settings bring about
        raise UserError(f"{folder.name}: no {what} that can be read: {reason(error)}") from error
