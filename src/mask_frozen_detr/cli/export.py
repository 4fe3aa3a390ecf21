"""`export`: a run as a folder that runs without torch."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from mask_frozen_detr.cli.loading import load_model
from mask_frozen_detr.errors import UserError, safe


@dataclass
class Export:
    """A run as an ONNX graph that needs neither torch nor this project's training code."""

    # A run folder, or a hub repository of one.
    model: Positional[str]
    # Where model.onnx and model.json go: a new folder, or one with an earlier export.
    output: Path
    # Detections an image; by default as many as the run was trained with, else 100.
    max_detections: int | None = None
    # The version of ONNX's operators; lower ones run in older runtimes.
    opset: int = 18
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def run(self) -> None:
        from mask_frozen_detr.export.folder import check_packages, check_target, export_model
        from mask_frozen_detr.runtime.description import is_exported

        if is_exported(self.model):
            raise UserError(f"{self.model}: is an exported model already, expected a run folder")
        check_packages()
        check_target(self.output)
        model = load_model(self.model, self.detector, "cpu", self.revision)
        print(safe(export_model(model, self.output, self.max_detections, self.opset).report()))
