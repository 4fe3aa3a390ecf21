"""What a run folder says about its model, mask_frozen_detr.json, as a typed record that is read field by field."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.detectors import DetectorShapes, Identity
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.checksums import hash_content
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.machine.json_records import LARGEST, read_record, read_value
from mask_frozen_detr.network import MaskNetworkConfig

CONFIG_FILE = "mask_frozen_detr.json"
METRICS_FILE = "metrics.jsonl"
WEIGHTS_FILE = "mask_network.safetensors"
DETECTOR_FOLDER = "detector"  # of a run that fine-tuned its detector
TRAINING_FILE = "training.json"  # how a run was trained
FORMAT = 2  # 1: without checksums, the detector's place and its settings
DETECTIONS = 100  # an image
MOST_LEVELS, LARGEST_STRIDE = 16, 1024


@dataclass(frozen=True)
class DetectorPlace:
    """Where a detector lay that is no hub model: its absolute path, and that relative to the run folder."""

    absolute: str
    relative: str | None = None  # None: on another drive


@dataclass(frozen=True)
class Supervision:
    """How a run was supervised that did not learn from drawn masks alone.

    masks_from: which objects' masks the run drew itself. true_masks, pseudo_masks: objects that it learned from.
    rounds: of drawing them.
    """

    masks_from: str
    true_masks: int
    pseudo_masks: int
    rounds: int

    def sentence(self) -> str:
        """How the masks were trained, as it stands beside figures."""
        beside = f"{self.true_masks} true masks and " if self.true_masks else "no true mask, and "
        return f"trained on {beside}{self.pseudo_masks} pseudo-masks made from boxes"


@dataclass(frozen=True)
class RunConfig:
    """The fields from `classes` on are None or empty in runs of older versions."""

    detector: Identity
    shapes: DetectorShapes
    network: MaskNetworkConfig
    classes: RunClasses | None
    max_detections: int
    class_names: list[str] | None = None
    preprocessing: dict[str, Any] | None = None
    place: DetectorPlace | None = None
    held_out: HeldOut | None = None  # None, too, where the data had a val split
    supervision: Supervision | None = None  # None: drawn masks alone
    checksums: dict[str, str] = field(default_factory=dict)  # sha256 of files of the run folder, by relative path

    @property
    def checksum(self) -> str | None:
        """sha256 of the mask network's weights."""
        return self.checksums.get(WEIGHTS_FILE)

    def describe(self) -> dict[str, Any]:
        """What stands in a run folder, and what `read_run_config` reads; what is None or empty is left out."""
        optional = {
            "detector_place": None if self.place is None else asdict(self.place),
            "classes": None if self.classes is None else self.classes.describe(),
            "held_out": None if self.held_out is None else asdict(self.held_out),
            "supervision": None if self.supervision is None else asdict(self.supervision),
            "checksums": self.checksums or None,
        }
        return {
            "format": FORMAT,
            "detector": self.detector.as_dict(),
            "shapes": asdict(self.shapes),
            "network": asdict(self.network),
            # Each of its fields has a default: one that is gone would be another network, and its weights may fit.
            "network_checksum": hash_content(asdict(self.network)),
            "class_names": self.class_names,
            "max_detections": self.max_detections,
            "preprocessing": self.preprocessing,
            **{key: value for key, value in optional.items() if value is not None},
        }


def read_run_config(folder: Path) -> RunConfig:
    """Raises UserError where the description of a run folder is missing or damaged."""
    path = folder / CONFIG_FILE
    saved = read_json_object(path)
    try:
        version = saved["format"]
        if isinstance(version, int) and version > FORMAT:
            raise UserError(f"{path}: written by a newer version (format {version}, expected up to {FORMAT})")
        if type(version) is not int or version < 1:
            raise ValueError(f"format is {version!r:.40}, expected 1 to {FORMAT}")
        place, held_out = saved.get("detector_place"), saved.get("held_out")
        supervision = saved.get("supervision")
        names = read_value(saved.get("class_names"), list[str] | None, "class_names")
        return RunConfig(
            read_record(Identity, saved["detector"], "detector"),
            _bounded(read_record(DetectorShapes, saved["shapes"], "shapes")),
            _read_network(saved),
            RunClasses.read(saved["classes"], len(names or [])) if "classes" in saved else None,
            _trained_detections(saved, folder),
            names,
            read_value(saved.get("preprocessing"), dict | None, "preprocessing"),
            None if place is None else read_record(DetectorPlace, place, "detector_place"),
            None if held_out is None else read_record(HeldOut, held_out, "held_out"),
            None if supervision is None else read_record(Supervision, supervision, "supervision"),
            read_value(saved.get("checksums", {}), dict[str, str], "checksums"),
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); train the run anew") from error


def _bounded(shapes: DetectorShapes) -> DetectorShapes:
    """Raises ValueError for shapes that no detector has."""
    if not 1 <= len(shapes.feature_widths) == len(shapes.strides) <= MOST_LEVELS:
        raise ValueError(
            f"shapes: found {len(shapes.feature_widths)} widths and {len(shapes.strides)} strides, expected 1 to "
            f"{MOST_LEVELS} of both"
        )
    if len(shapes.stage_widths) != len(shapes.stage_strides):
        raise ValueError("shapes: found stage_widths and stage_strides of two lengths, expected one")
    if not all(
        1 <= stride <= LARGEST_STRIDE for stride in (*shapes.strides, shapes.stem_stride, *shapes.stage_strides)
    ):
        raise ValueError(f"shapes: found strides {shapes.strides}, expected 1 to {LARGEST_STRIDE}")
    widths = (shapes.query_width, *shapes.feature_widths, *shapes.stage_widths, shapes.stem_width or 1)
    if min(shapes.num_classes, *widths) < 1:
        raise ValueError("shapes: found a width or a number of classes of 0, expected 1 or more")
    return shapes


def _read_network(saved: Mapping[str, Any]) -> MaskNetworkConfig:
    """Raises ValueError for what is none, and for another than the run wrote; older versions wrote no checksum."""
    network = read_record(MaskNetworkConfig, saved["network"], "network")
    stated = saved.get("network_checksum")
    if stated is not None and stated != hash_content(saved["network"]):
        raise ValueError("network: is not what the run wrote: a field was changed, or is gone")
    return network


def _trained_detections(saved: Mapping[str, Any], folder: Path) -> int:
    """Detections an image of a run; older versions say it only where they say how the run was trained."""
    count = saved.get("max_detections")
    if count is None:
        try:
            count = read_json_object(folder / TRAINING_FILE).get("max_detections", DETECTIONS)
        except UserError:
            return DETECTIONS
    if type(count) is not int or not 1 <= count <= LARGEST:
        raise ValueError(f"max_detections is {count!r:.40}, expected a whole number, at least 1")
    return count
