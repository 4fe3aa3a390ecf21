"""model.json: what an exported folder says about its graph, read field by field and checked against its files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.checksums import hash_content, hash_file
from mask_frozen_detr.machine.config import ExportPrecision
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.machine.json_records import read_record, read_value

DESCRIPTION_FILE, GRAPH_FILE = "model.json", "model.onnx"
MADE_BY = "mask-frozen-detr export"
FORMAT = 1


@dataclass(frozen=True)
class InputSize:
    """What of (batch, 3, height, width) a graph has fixed; None: any number of pictures.

    padded: pictures may be smaller, at the top left, and the graph is told how large each of them is.
    """

    batch: int | None
    height: int
    width: int
    padded: bool = False

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why pixels of this shape do not fit, None where they do."""
        for name, found, wanted in zip(
            ("pictures", "rows", "columns"), (shape[0], *shape[2:]), (self.batch, self.height, self.width), strict=True
        ):
            if wanted not in (None, found):
                return f"found {found} {name}, but this graph takes {wanted}"
        return None


@dataclass(frozen=True)
class ExportedModel:
    """detections: rows of every output. mask_scoring: scores are of equation 13, else of equation 2.

    detector: its identity, as the run has it. checksums: sha256 of each file of the folder, by name. held_out and
    supervision: of the run's training, see `results.predictor.Predictor`.
    """

    version: str
    opset: int
    input: InputSize
    detections: int
    mask_side: int
    mask_threshold: float
    mask_scoring: bool
    preprocessing: Preparation
    class_names: list[str]
    classes: RunClasses | None
    max_detections: int
    detector: dict[str, Any]
    checksums: dict[str, str]
    held_out: HeldOut | None = None
    supervision: str = ""
    precision: ExportPrecision = "fp32"

    def as_json(self) -> dict[str, Any]:
        """What model.json and, without the checksums of files, the graph's own metadata say."""
        content = asdict(self)
        content["classes"] = None if self.classes is None else self.classes.describe()
        return {"made_by": MADE_BY, "format": FORMAT, **content}

    def as_file(self) -> dict[str, Any]:
        """What model.json holds, its own checksum included."""
        content = self.as_json()
        return {**content, "checksum": hash_content(content)}


def is_exported(folder: str | Path) -> bool:
    """Whether a folder holds an exported model, whole or damaged."""
    return (Path(folder) / DESCRIPTION_FILE).is_file()


def read_description(folder: Path) -> ExportedModel:
    """Raises UserError where model.json is missing, damaged, edited or of a newer version, or files do not belong to
    it.
    """
    path = folder / DESCRIPTION_FILE
    saved = read_json_object(path)
    if saved.get("made_by") != MADE_BY:
        raise UserError(f"{path}: was not written by `{MADE_BY}`; expected a folder that it wrote")
    version = saved.get("format")
    if type(version) is int and version > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {version}, expected up to {FORMAT})")
    stated = saved.pop("checksum", None)  # older versions wrote none
    if stated not in (None, hash_content(saved)):
        raise UserError(
            f"{path}: is damaged or was edited: its content is not what `{MADE_BY}` wrote, and would give other "
            "predictions; copy the whole folder, or export anew"
        )
    try:
        values = {key: value for key, value in saved.items() if key not in ("made_by", "format")}
        names = read_value(values["class_names"], list[str], "class_names")
        classes, held_out = values["classes"], values.get("held_out")
        found = ExportedModel(
            version=read_value(values["version"], str, "version"),
            opset=read_value(values["opset"], int, "opset"),
            input=read_record(InputSize, values["input"], "input"),
            detections=read_value(values["detections"], int, "detections"),
            mask_side=read_value(values["mask_side"], int, "mask_side"),
            mask_threshold=read_value(values["mask_threshold"], float, "mask_threshold"),
            mask_scoring=read_value(values["mask_scoring"], bool, "mask_scoring"),
            preprocessing=_checked(read_record(Preparation, values["preprocessing"], "preprocessing")),
            class_names=names,
            classes=None if classes is None else RunClasses.read(classes, len(names)),
            max_detections=read_value(values["max_detections"], int, "max_detections"),
            detector=read_value(values["detector"], dict, "detector"),
            checksums=read_value(values["checksums"], dict[str, str], "checksums"),
            held_out=None if held_out is None else read_record(HeldOut, held_out, "held_out"),
            supervision=read_value(values.get("supervision", ""), str, "supervision"),
            precision=read_value(values.get("precision", "fp32"), ExportPrecision, "precision"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({printable(f'{type(error).__name__}: {error}')}); export anew") from error
    if GRAPH_FILE not in found.checksums:
        raise UserError(f"{path}: is damaged: it names no {GRAPH_FILE}; export anew")
    _check_files(folder, found.checksums)
    return found


def _check_files(folder: Path, checksums: dict[str, str]) -> None:
    for name, checksum in checksums.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise UserError(f"{path}: is missing, but {DESCRIPTION_FILE} names it; copy the whole folder anew")
        if hash_file(path) != checksum:
            raise UserError(
                f"{path}: does not belong to {DESCRIPTION_FILE} beside it (sha256 expected: {checksum[:12]}…): it is "
                "damaged or of another export; copy the whole folder, or export anew"
            )


def _checked(preparation: Preparation) -> Preparation:
    """Raises ValueError for numbers that no pre-processing has."""
    if preparation.resample not in (0, 2, 3) or len(preparation.size) != 2 or min(preparation.size) < 1:
        raise ValueError(f"preprocessing: found filter {preparation.resample} and size {preparation.size}")
    if preparation.canvas is not None and (len(preparation.canvas) != 2 or min(preparation.canvas) < 1):
        raise ValueError(f"preprocessing: found the canvas {preparation.canvas}, expected height and width")
    mean, std = preparation.mean, preparation.std
    if len(mean) != 3 or len(std) != 3 or max(map(abs, (*mean, *std))) > 1e6 or min(map(abs, std)) < 1e-6:
        raise ValueError("preprocessing: mean and std: expected three numbers each, up to 1e6, those of std not 0")
    return preparation
