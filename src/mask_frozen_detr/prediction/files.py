"""`mask-frozen-detr predict`: overlays, a COCO data set and probability maps for a set of pictures."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, get_args

from accelerate.utils import gather_object
from PIL import Image

from mask_frozen_detr.data.images import find_images, read_image
from mask_frozen_detr.errors import UserError, about, check_choice, check_number, printable, reason
from mask_frozen_detr.machine.flow import Flow
from mask_frozen_detr.machine.forks import ForkedFlow
from mask_frozen_detr.machine.lanes import in_precision_of_now, shared_threads
from mask_frozen_detr.machine.locks import FolderLock
from mask_frozen_detr.machine.processes import on_main, processes, usable_cores
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.prediction.config import OverlayFormat
from mask_frozen_detr.prediction.names import MAPS, check_targets, name_pictures
from mask_frozen_detr.prediction.summary import summarise, undrawable_labels
from mask_frozen_detr.results.drawing import draw_instances, draw_probability_maps
from mask_frozen_detr.results.exports.found import Picture, make_object
from mask_frozen_detr.results.exports.write import check_exports, write_exports
from mask_frozen_detr.results.fonts import check_font
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.prediction_files import (
    PREDICTIONS_FILE,
    Predicted,
    PredictionFiles,
    describe_found,
    hash_picture,
    is_own_picture,
    save_own_picture,
)
from mask_frozen_detr.results.predictor import Predictor

__all__ = ["PREDICTIONS_FILE", "predict_files"]

USUAL_WORKERS, MOST_WORKERS = 2, 64
ODD_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # of one file, while the disk is well


@dataclass(frozen=True)
class _Options:
    output: Path
    score_threshold: float
    max_detections: int
    probability_maps: bool
    overlays: bool
    overlay_format: OverlayFormat
    font: Path | None
    classes: tuple[str, ...] | None

    def drawn(self, name: str, instances: int = 1) -> list[Path]:
        """The pictures that are drawn of one."""
        kinds = [""] if self.overlays else []
        kinds += [MAPS] if self.probability_maps and instances else []
        return [self.place(name, kind) for kind in kinds]

    def place(self, name: str, kind: str = "") -> Path:
        return self.output / f"{name}{kind}.{self.overlay_format}"


@dataclass(frozen=True)
class _Read:
    """A picture that has been read: its bytes' hash, itself, and what the detector takes."""

    digest: str
    image: Image.Image
    prepared: Any


def predict_files(
    model: Predictor,
    inputs: Sequence[str | Path],
    output: Path,
    score_threshold: float = 0.3,
    max_detections: int | None = None,
    probability_maps: bool = False,
    overlays: bool = True,
    font: Path | None = None,
    formats: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    batch: int = 1,
    workers: int = -1,
    overlay_format: OverlayFormat = "png",
) -> str:
    """Predict every picture of `inputs`; returns a short report.

    Writes `NAME.png` overlays, `NAME.probabilities.png` on request, and predictions.json and results.json as
    `results.prediction_files` describes them. overlay_format: "jpg" writes JPEGs in their place, NAME.jpg.
    max_detections: None takes what the run was trained with. font: a TrueType or OpenType file for the labels; else
    the system's are searched for what Pillow's own font lacks.
    formats: what else to write, each into a folder of its name, see `results.exports`; made anew of all that is known
    whenever a call ends well. classes: names of those to look for, None as `MaskFrozenDetr.predict` takes it.
    batch: pictures that the model takes at once. workers: threads that read and draw while it computes; -1 chooses by
    the machine, 0 does one after the other. On a CPU -1 lets processes of a core each do all of it where these can be
    forked (`Predictor.forks`); else, unless it is 0, the model may see several small batches at once, each on its share
    of torch's threads (`Predictor.side_by_side`), and where each has a core -1 lets it read and draw as well.

    Called again it goes on: what is done is kept as long as picture, model and settings are the same. A picture on
    which anything fails is named and left out. Nothing is replaced that `predict` did not write, and nothing that it
    wrote is taken for a picture to predict. A second call into the same folder at the same time is refused. Under
    `accelerate launch` or `torchrun` every process takes its share of the pictures and gets the same report; the first
    one writes predictions.json.
    Raises UserError where no picture can be used, something foreign would be replaced, or the disk is full.
    """
    max_detections = model.max_detections if max_detections is None else max_detections
    model.check(score_threshold, max_detections)
    check_font(font)
    check_choice("overlay_format", overlay_format, get_args(OverlayFormat))
    check_number("batch", batch, 1, whole=True)
    check_number("workers", workers, -1, MOST_WORKERS, whole=True)
    model.class_indices(classes)  # or one of the names is none
    options = _Options(
        output,
        float(score_threshold),
        int(max_detections),
        probability_maps,
        overlays,
        overlay_format,
        font,
        None if classes is None else tuple(classes),
    )
    with _alone_in(output):
        return _predict_all(model, inputs, options, formats, batch, workers)


def _predict_all(
    model: Predictor,
    inputs: Sequence[str | Path],
    options: _Options,
    formats: Sequence[str],
    batch: int,
    workers: int,
) -> str:
    """The work of `predict_files`, with options that are checked and a folder that is nobody else's meanwhile."""
    state, output = processes(), options.output
    exports = check_exports(output, formats)
    paths, own = _find_pictures(inputs)
    settings = _settings(model, options)
    files = PredictionFiles(output, settings, model.class_names, state.process_index, state.num_processes)
    names = name_pictures(paths, files)
    due, problems = _due(paths, names, files, options)
    check_targets([target for number in due for target in options.drawn(names[paths[number]])], set(paths))
    state.wait_for_everyone()  # all have listed the pictures before the first overlay lies among them

    root = _root(inputs, [*paths, *files.pictures])
    problems = problems if state.is_main_process else []
    # By all pictures, not those that are due: what an interrupted call left comes out as it would have then.
    several = len(paths) > batch
    forks = model.forks(batch) if workers < 0 and several and state.num_processes == 1 else 0
    models = model.side_by_side(batch) if workers and several and not forks else [model]
    flow = _flow(models, names, options, batch, 0 if forks else _threads(workers, len(models)))
    try:
        with shared_threads(len(models)):
            new = _predict_due(ForkedFlow(flow, forks) if forks else flow, paths, due, files, root, problems)
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is the one to tell
            files.save(root, paths)
        raise
    if state.num_processes > 1:
        new, problems = gather_object(new), sorted(gather_object(problems))
    done = _all_done(paths, files, new, problems)
    if state.is_main_process:
        files.finish(root, paths)
        names_of = {index: name or str(index) for index, name in enumerate(model.class_names)}
        write_exports(output, exports, [_as_found(one, names_of) for one in done], names_of)
    return summarise(
        output,
        done,
        len(done) - len(new),
        files.changed,
        options.score_threshold,
        [problem for _, problem in problems],
        own,
        inputs,
        undrawable_labels(done, model.class_names, options.font) if options.overlays else "",
    )


def _find_pictures(inputs: Sequence[str | Path]) -> tuple[list[Path], int]:
    """The pictures of `inputs`, and how many beside them predict itself has drawn. Raises UserError for these alone."""
    every = [Path(os.path.abspath(path)) for path in find_images(inputs)]
    paths = [path for path in every if not is_own_picture(path)]
    if not paths:
        raise UserError(f"{printable(str(inputs[0]))}: holds nothing but pictures that predict itself has drawn")
    return paths, len(every) - len(paths)


def _due(
    paths: Sequence[Path], names: dict[Path, str], files: PredictionFiles, options: _Options
) -> tuple[list[int], list[tuple[int, str]]]:
    """The places of the pictures that are to be predicted, and of those that cannot be looked at, with the reason."""
    due: list[int] = []
    problems: list[tuple[int, str]] = []
    for number, path in enumerate(paths):
        with _told(problems, number, path):
            known = files.pictures.get(path)
            drawn = options.drawn(names[path], len(known.found) if known else 1)
            if not (files.is_done(path) and all(is_own_picture(picture) for picture in drawn)):
                due.append(number)
    return due, problems


def _predict_due(
    flow: Flow[Path, _Read, Instances, Predicted] | ForkedFlow[Predicted],
    paths: Sequence[Path],
    due: Sequence[int],
    files: PredictionFiles,
    root: Path,
    problems: list[tuple[int, str]],
) -> list[Predicted]:
    """What this process's share of the due pictures gave; files are written on the way, and `problems` added to."""
    state = processes()
    done_before = len(paths) - len(due)
    bar = Progress("predicting", len(paths), quiet=not state.is_main_process)
    bar.start(done_before)
    new: list[Predicted] = []
    number_of = {paths[number]: number for number in due}
    share = [paths[number] for number in due[state.process_index :: state.num_processes]]
    for place, (path, outcome) in enumerate(flow.over(share), 1):
        with _told(problems, number_of[path], path):
            if isinstance(outcome, Exception):
                raise outcome
            new.append(outcome)
            files.add(outcome)
        files.save_if_due(root)
        bar.update(done_before + min(place * state.num_processes, len(due)))
    bar.close()
    return new


def _all_done(
    paths: Sequence[Path], files: PredictionFiles, new: Sequence[Predicted], problems: Sequence[tuple[int, str]]
) -> list[Predicted]:
    """All that is known of `paths`, from earlier calls and this one. Raises UserError where it is nothing."""
    for predicted in new:
        files.add(predicted)
    for number, _ in problems:
        files.drop(paths[number])
    done = [files.pictures[path] for path in paths if path in files.pictures]
    if not done:
        raise UserError("no picture could be read:\n" + "\n".join(problem for _, problem in problems))
    return done


@contextlib.contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """The output folder, made if need be, which no other call or run may use meanwhile. Raises UserError."""
    locks: list[FolderLock] = []  # the main process's
    try:
        on_main(lambda: locks.append(FolderLock(output)))
        yield
    finally:
        for lock in locks:
            lock.release(keep_file=not lock.made_file)


def _as_found(one: Predicted, names: dict[int, str]) -> Picture:
    objects = tuple(make_object(entry, names[entry["category_id"]]) for entry in one.found)
    return Picture(one.path, one.name, one.width, one.height, objects)


def _settings(model: Predictor, options: _Options) -> dict[str, Any]:
    """All that decides what is found in a picture."""
    return {
        "score_threshold": options.score_threshold,
        "max_detections": options.max_detections,
        **model.fingerprint(),
        **({} if (looked_for := model.class_indices(options.classes)) is None else {"classes": looked_for}),
    }


def _flow(
    models: Sequence[Predictor], names: dict[Path, str], options: _Options, batch: int, threads: int
) -> Flow[Path, _Read, Instances, Predicted]:
    """Pictures read, segmented by as many models at once, drawn, and their drawings written."""
    looked_for = models[0].class_indices(options.classes)
    idle: SimpleQueue[Predictor] = SimpleQueue()
    for model in models:
        idle.put(model)

    def read(path: Path) -> _Read:
        os.fspath(path).encode()  # or no JSON could hold the name
        digest = hash_picture(path)
        image = read_image(path)
        return _Read(digest, image, models[0].prepare(image))

    def segment(ready: Sequence[_Read]) -> list[Instances]:
        prepared, model = [one.prepared for one in ready], idle.get()
        try:
            return model.predict_prepared(
                prepared, options.score_threshold, options.max_detections, options.probability_maps, looked_for
            )
        finally:
            idle.put(model)

    def draw(path: Path, ready: _Read, instances: Instances) -> Predicted:
        image, name = ready.image, names[path]
        if options.overlays:
            save_own_picture(draw_instances(image, instances, options.font), options.place(name))
        if options.probability_maps and len(instances):
            picture = draw_probability_maps(image, instances, options.font)
            save_own_picture(picture, options.place(name, MAPS))
        return Predicted(path, ready.digest, image.width, image.height, name, describe_found(instances))

    if len(models) == 1:
        return Flow(read, segment, draw, batch, threads)
    return Flow(read, in_precision_of_now(segment), draw, batch, threads, len(models))


def _threads(workers: int, lanes: int) -> int:
    """Threads that read and draw beside so many models: none where each model has a core, and the choice is ours."""
    cores = usable_cores()
    if workers >= 0:
        return workers
    return 0 if lanes > 1 and cores <= lanes else min(USUAL_WORKERS, cores)


@contextlib.contextmanager
def _told(problems: list[tuple[int, str]], number: int, path: Path) -> Iterator[None]:
    """One bad picture is one line, whatever fails on it; a disk that is full or closed ends all."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and "cannot be written" in str(error) and cause.errno not in ODD_NAMES:
            raise
        text = "its name is not valid Unicode; rename it" if isinstance(error, UnicodeEncodeError) else reason(error)
        problems.append((number, about(path, text)))


def _root(inputs: Sequence[str | Path], paths: Sequence[Path]) -> Path:
    """The folder that all pictures lie below: the one given, if one is given."""
    folders = [os.path.abspath(Path(entry).expanduser()) for entry in inputs if Path(entry).expanduser().is_dir()]
    others = [str(path.parent) for path in paths if not any(path.is_relative_to(folder) for folder in folders)]
    return Path(os.path.commonpath([*folders, *others]))
