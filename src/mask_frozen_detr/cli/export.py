"""`export`: a run as a folder that runs without torch."""

from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.cli.loading import load_model
from mask_frozen_detr.cli.positionals import RunName
from mask_frozen_detr.errors import UserError, safe
from mask_frozen_detr.machine.config import ExportPrecision


@dataclass
class Export:
    """A run as an ONNX graph that needs neither torch nor this project's training code."""

    # A run folder, or a hub repository of one.
    model: RunName
    # Where model.onnx and model.json go: a new folder, or one with an earlier export.
    output: Path
    # Detections an image; by default as many as the run was trained with, else 100.
    max_detections: int | None = None
    # Height and width of the graph's input, for a detector that takes any: pictures are resized as it has them, made
    # smaller where they do not fit, and padded. By default its shorter and longer side.
    size: tuple[int, int] | None = None
    # The graph also pastes masks at a picture's size, which it takes as the input `picture`: for programs that do not
    # paste themselves. It holds every mask at that size at once.
    pasted: bool = False
    # Convolutions in half precision (fp16) or of 8 bits (int8, with --calibrate); all else stays float32. `evaluate`
    # tells what AP they cost: small detectors lose much.
    precision: ExportPrecision = "fp32"
    # Pictures of yours that int8 takes its ranges from: a folder, files or patterns; 100 are enough.
    calibrate: tuple[str, ...] = ()
    # The version of ONNX's operators; lower ones run in older runtimes.
    opset: int = 20
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def run(self) -> None:
        from mask_frozen_detr.export.checks import calibration_pictures, check_packages, check_target
        from mask_frozen_detr.export.folder import export_model
        from mask_frozen_detr.runtime.description import is_exported

        if is_exported(self.model):
            raise UserError(f"{self.model}: is an exported model already, expected a run folder")
        check_packages()
        check_target(self.output)
        calibration_pictures(self.precision, self.calibrate)
        model = load_model(self.model, self.detector, "cpu", self.revision)
        made = export_model(
            model,
            self.output,
            self.max_detections,
            self.opset,
            self.size,
            self.precision,
            self.calibrate,
            self.pasted,
        )
        print(safe(made.report()))
