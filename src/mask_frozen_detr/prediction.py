"""`mask-frozen-detr predict`: overlays, a COCO results file and probability maps for a set of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from mask_frozen_detr.data.images import find_images, read_image
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import save_image_atomic, write_json_atomic
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.drawing import draw_instances, draw_probability_maps

PREDICTIONS_FILE = "predictions.json"
OVERLAY_SUFFIX, MAPS_SUFFIX = ".png", ".probabilities.png"


def predict_files(
    model: MaskFrozenDetr,
    inputs: Sequence[str | Path],
    output: Path,
    score_threshold: float = 0.3,
    max_detections: int = 100,
    probability_maps: bool = False,
    overlays: bool = True,
) -> str:
    """Predict every picture of `inputs`; returns a short report.

    Writes `NAME.png` overlays, `NAME.probabilities.png` on request and predictions.json: {"images", "categories",
    "annotations"}, the last as COCO results with class indices as category ids. A picture that cannot be read is
    named and skipped. Under `accelerate launch` or `torchrun` every process takes its share of the pictures and gets
    the same report; the first one writes predictions.json. Raises UserError where no picture can be read.
    """
    state = processes()
    paths = find_images(inputs)
    names = _output_names(paths)
    inputs_at = {path.resolve() for path in paths}
    for name in names:
        for suffix in (OVERLAY_SUFFIX, MAPS_SUFFIX):
            if (output / f"{name}{suffix}").resolve() in inputs_at:
                raise UserError(
                    f"{output / name}{suffix}: is one of the pictures to predict and would be overwritten; "
                    "name another --output"
                )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot make the output folder: {error.strerror}") from error
    state.wait_for_everyone()  # all have listed the pictures before the first overlay lies among them
    bar = Progress("predicting", len(paths), quiet=not state.is_main_process)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    problems: list[tuple[int, str]] = []
    empty: list[tuple[int, Path]] = []
    for number in range(state.process_index, len(paths), state.num_processes):
        path = paths[number]
        try:
            image = read_image(path)
        except UserError as error:
            problems.append((number, str(error)))
            bar.update(min(number + state.num_processes, len(paths)))
            continue
        instances = model.predict(image, score_threshold, max_detections, probabilities=probability_maps)
        images.append({"id": number, "file_name": str(path), "width": image.width, "height": image.height})
        annotations += instances.to_coco(number, None)
        if not len(instances):
            empty.append((number, path))
        if overlays:
            save_image_atomic(draw_instances(image, instances), output / f"{names[number]}{OVERLAY_SUFFIX}")
        if probability_maps and len(instances):
            picture = draw_probability_maps(image, instances)
            save_image_atomic(picture, output / f"{names[number]}{MAPS_SUFFIX}")
        bar.update(min(number + state.num_processes, len(paths)))
    bar.close()
    if state.num_processes > 1:  # gathered, and in the order of one process
        images = sorted(gather_object(images), key=lambda entry: entry["id"])
        annotations = sorted(gather_object(annotations), key=lambda entry: entry["image_id"])
        problems, empty = sorted(gather_object(problems)), sorted(gather_object(empty))
    if not images:
        raise UserError("no picture could be read:\n" + "\n".join(problem for _, problem in problems))
    categories = [{"id": i, "name": name} for i, name in enumerate(model.detector.info.class_names) if name]
    if state.is_main_process:
        write_json_atomic(
            output / PREDICTIONS_FILE, {"images": images, "categories": categories, "annotations": annotations}
        )
    lines = [f"{len(annotations)} instances in {len(images)} pictures, in {output}"]
    if empty:
        lines.append(f"no instance above {score_threshold} in {len(empty)}, the first: {empty[0][1]}")
    lines += [f"skipped: {problem}" for _, problem in problems]
    return "\n".join(lines)


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Stems, made unique where two folders hold pictures of one name: neither overlays nor maps may meet."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, count = path.stem, 1
        while taken & {name + OVERLAY_SUFFIX, name + MAPS_SUFFIX}:
            count += 1
            name = f"{path.stem}-{count}"
        taken |= {name + OVERLAY_SUFFIX, name + MAPS_SUFFIX}
        names.append(name)
    return names
