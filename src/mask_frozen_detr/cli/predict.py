"""`predict`: masks for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from mask_frozen_detr.cli.loading import check_at_least, load_predictor, split_words
from mask_frozen_detr.cli.positionals import PictureNames, RunName
from mask_frozen_detr.errors import UserError, reason, safe
from mask_frozen_detr.machine.config import Precision, Runtime
from mask_frozen_detr.prediction.config import OverlayFormat

if TYPE_CHECKING:
    from mask_frozen_detr.results.predictor import Predictor


@dataclass
class Predict:
    """Masks for pictures and films: overlays and a COCO data set."""

    # A run folder, a hub repository of one, an exported folder, or a detector: then the training-free baseline
    # predicts.
    model: RunName
    # Pictures: files, folders or patterns such as 'photos/*.jpg'; or films such as street.mp4.
    images: PictureNames
    # Where overlays and predictions.json go.
    output: Path
    # Formats to write beside COCO, each into a folder of its name: yolo, labelme, label-studio, masks (a PNG each),
    # panoptic (a label map a picture) and geojson, several with commas between.
    format: str = "coco"
    # Look for these classes alone, as person,dog; by default for those chosen when the run was trained, else all.
    classes: str | None = None
    # Leave out what scores at most this.
    score_threshold: float = 0.3
    # Detections an image; by default as many as the run was trained with, else 100.
    max_detections: int | None = None
    # Draw masks, boxes and names over each picture.
    overlays: bool = True
    # How what is drawn is written: png keeps each pixel, jpg is a quarter as large and takes an eighth of the time.
    overlay_format: OverlayFormat = "png"
    # Follow objects through films, and number them in what is written (extra track).
    track: bool = False
    # Draw the pictures of the paper's Figures 4 and 8 as well: how sure the network is of each pixel.
    probability_maps: bool = False
    # Pictures that the model takes at once: more are faster on a GPU, and need its memory.
    batch: int = 1
    # Threads that read and draw pictures while the model computes; -1 chooses by the machine, on a CPU under Linux
    # processes of a core each that do all of it.
    workers: int = -1
    # Font file for the labels; by default the system's are searched for letters that Pillow's own font lacks.
    font: Path | None = None
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # auto takes half precision where that is fast; boxes then move by its rounding.
    precision: Precision = "fp32"
    # Runs an exported folder: onnxruntime, the default, or openvino.
    runtime: Runtime | None = None
    # Look twice, the second time in the mirror: better masks, the same boxes, twice the time.
    mirror: bool = False
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # The classes of a bare detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise UserError("PICTURES: found none, expected image files, folders or glob patterns, or films")
        if self.max_detections is not None:
            check_at_least(1, max_detections=self.max_detections)
        check_at_least(0, score_threshold=self.score_threshold)

    def run(self) -> None:
        from mask_frozen_detr.machine.processes import processes
        from mask_frozen_detr.prediction.files import predict_files
        from mask_frozen_detr.prediction.films import is_film

        films = [film for name in self.images if is_film(name) for film in _matching(name)]
        pictures = [name for name in self.images if not is_film(name)]
        self._check_kinds(films, pictures)
        model, computing = load_predictor(
            self.model,
            self.detector,
            self.device,
            self.revision,
            self.prompt,
            self.precision,
            runtime=self.runtime,
            mirror=self.mirror,
        )
        classes = None if self.classes is None else split_words(self.classes)
        reports: list[str] = []
        with computing:
            if films and processes().is_main_process:
                reports += self._predict_films(model, films, classes)
            if pictures:
                reports.append(
                    predict_files(
                        model,
                        pictures,
                        self.output,
                        self.score_threshold,
                        self.max_detections,
                        self.probability_maps,
                        self.overlays,
                        self.font,
                        split_words(self.format),
                        classes,
                        self.batch,
                        self.workers,
                        self.overlay_format,
                    )
                )
        if processes().is_main_process:
            print(safe("\n".join(reports)))

    def _check_kinds(self, films: Sequence[Path], pictures: Sequence[str]) -> None:
        """Raises UserError for an option that none of what is given has a use for."""
        from mask_frozen_detr.prediction.films import SUFFIXES

        if self.overlay_format != "png" and not (self.overlays or self.probability_maps):
            raise UserError(f"--overlay-format {self.overlay_format}: found --no-overlays, with which none is drawn")
        if self.track and not films:
            raise UserError(f"--track: found no film among the pictures, expected one of {', '.join(SUFFIXES)}")
        of_pictures = {
            "--probability-maps": self.probability_maps,
            f"--format {self.format}": self.format != "coco",
            f"--overlay-format {self.overlay_format}": self.overlay_format != "png",
        }
        if not pictures and (options := [option for option, given in of_pictures.items() if given]):
            raise UserError(f"{options[0]}: found films alone, of which an overlay and a jsonl are written")

    def _predict_films(self, model: "Predictor", films: Sequence[Path], classes: Sequence[str] | None) -> list[str]:
        """A line about each film; one bad film is one line, whatever fails on it.

        Raises UserError where there is nothing but bad films.
        """
        from mask_frozen_detr.prediction.films import is_film, predict_film

        options = (self.score_threshold, self.max_detections, classes, self.font, self.track, self.overlays)
        reports: list[str] = []
        faults: list[str] = []
        for film in films:
            try:
                reports.append(predict_film(model, film, self.output, *options))
            except Exception as error:
                faults.append(str(error) if isinstance(error, UserError) else f"{film}: {reason(error)}")
                reports.append(f"skipped: {faults[-1]}")
        if len(faults) == len(films) and all(map(is_film, self.images)):
            raise UserError(faults[0] if len(faults) == 1 else "\n".join(["no film could be used:", *reports]))
        return reports


def _matching(name: str) -> list[Path]:
    """The films that a pattern stands for; a name that matches none is a film's own, missed where it is opened."""
    found = [] if Path(name).exists() else sorted(glob(name, recursive=True))
    return [Path(film) for film in found or [name]]
