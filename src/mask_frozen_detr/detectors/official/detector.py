"""The official detectors as frozen detectors: `load_official`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from mask_frozen_detr.detectors.base import (
    Detections,
    DetectorInfo,
    FrozenDetector,
    Labels,
    MatchingCosts,
    ScoreRule,
    named_classes,
)
from mask_frozen_detr.detectors.identity import SCHEME, Identity, hash_settings, hash_tensors
from mask_frozen_detr.detectors.official.checkpoint import Checkpoint, read_checkpoint, write_folder
from mask_frozen_detr.detectors.official.config import OfficialConfig
from mask_frozen_detr.detectors.official.layout import infer_config
from mask_frozen_detr.detectors.official.model import OfficialDetr
from mask_frozen_detr.detectors.official.names import check_name, published
from mask_frozen_detr.detectors.official.renames import model_tensors, official_tensors
from mask_frozen_detr.detectors.preprocessing import ShortestEdge
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send


class OfficialDetector(FrozenDetector):
    """An `OfficialDetr`, frozen."""

    model: OfficialDetr

    def detect(self, pixel_values: Tensor, pixel_mask: Tensor | None, targets: Labels | None = None) -> Detections:
        """The detections of a batch (`FrozenDetector.forward`).

        Their features are the encoder's maps after the model's `encoder_layer`.
        """
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixel_values[:, 0], dtype=torch.long)
        found = self.model(pixel_values, send(pixel_mask, pixel_values.device))
        loss = None if targets is None else self.model.detection_loss(found, [dict(target) for target in targets])[0]
        return Detections(
            queries=found.states,
            logits=found.logits,
            boxes=found.boxes,
            features=found.features,
            stem=found.stem,
            loss=loss,
        )

    @property
    def transformer_parts(self) -> tuple[str, ...]:
        return "transformer.encoder", "transformer.decoder"

    def hash_checkpoint(self) -> str:
        """The hash is over the official names, whatever the file they came from (`FrozenDetector.hash_checkpoint`)."""
        return hash_tensors(official_tensors(self.model.state_dict(), self.model.config))

    def save(self, folder: Path) -> None:
        """Writes the folder that `mask-frozen-detr convert` makes of a checkpoint."""
        write_folder(
            folder,
            official_tensors(self.model.state_dict(), self.model.config),
            self.model.config,
            self.info.class_names,
            self.info.identity.name,
        )


def load_official(
    checkpoint: str | Path,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    encoder_layer: int = 4,
    num_queries: int | None = None,
) -> OfficialDetector:
    """An official checkpoint file, or a folder that `convert_checkpoint` wrote, as a frozen detector.

    name: one of `OFFICIAL_NAMES`; the file must be what it says. The file says which detector it is by itself.
    class_names: one a class index; default: COCO's by category id where there are 91 classes, "" elsewhere.
    encoder_layer: after which encoder layer the feature maps are taken, counted from 1 (Table 15).
    num_queries: for H-Deformable-DETR files that do not tell how many of their queries serve inference.
    Raises UserError for every bad input, never leaving a half-loaded model.
    """
    source = str(checkpoint)
    content, config, names = read_named(checkpoint, name, class_names, num_queries)
    model = build(config, content, source, encoder_layer)
    info = DetectorInfo(
        identity=Identity(
            source,
            None,
            hash_tensors(official_tensors(model.state_dict(), config)),
            config.family,
            encoder_layer,
            settings=hash_settings(config.as_dict() | {"max_detections": 0}),  # a key that older versions hashed
            scheme=SCHEME,
        ),
        class_names=names,
        preprocessing=ShortestEdge(),
        costs=MatchingCosts(),
        score_rule=ScoreRule("sigmoid"),
    )
    return OfficialDetector(model, info)


def read_named(
    checkpoint: str | Path, name: str | None, class_names: Sequence[str] | None, num_queries: int | None
) -> tuple[Checkpoint, OfficialConfig, list[str]]:
    """What a checkpoint holds, the architecture that it is of, and its classes; arguments as of `load_official`.

    Raises UserError for what cannot be read, is of no known architecture, or is not what `name` says.
    """
    source = str(checkpoint)
    if name is not None:
        where = published(name).where
        if not Path(checkpoint).exists():
            raise UserError(f"checkpoint {source} of {name}: no such file. Its authors publish it at {where}")
    content = read_checkpoint(checkpoint)
    config = content.config or infer_config(content.tensors, content.args, source, num_queries)
    if name is not None:
        check_name(name, config, source)
    return content, config, class_names_for(config, class_names if class_names is not None else content.class_names)


def build(config: OfficialConfig, content: Checkpoint, source: str, encoder_layer: int = 4) -> OfficialDetr:
    """The model with the checkpoint's weights, in float32. Raises UserError where they do not fit."""
    with torch.device("meta"):  # shapes only: a file that does not fit costs no memory
        tensors = model_tensors(OfficialDetr(config, encoder_layer), content.tensors, config, source)
    model = OfficialDetr(config, encoder_layer)
    model.load_state_dict(tensors)
    return model


def class_names_for(config: OfficialConfig, given: Sequence[str] | None) -> list[str]:
    """One name a class index. Raises UserError where the number given differs from the classifier's."""
    if given is not None:
        if len(given) != config.num_classes:
            raise UserError(f"class_names: found {len(given)} names, expected {config.num_classes}, one a class index")
        return named_classes(given, config.num_classes)
    if config.num_classes != 91:
        return [""] * config.num_classes
    # Class index = COCO category id: 1 person … 90 toothbrush, with gaps; there is no category 0.
    by_id = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return named_classes(["", *by_id[1:]], config.num_classes)
