"""Films and streams of frames: an overlay film and a line of JSON a frame; instances frame by frame from Python.

Films are read and written through PyAV, the extra `video`. What was decoded before a film ends early, or before an
interruption, is kept.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from PIL import Image

from mask_frozen_detr.data.images import check_regular
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.prediction.tracking import Tracker
from mask_frozen_detr.prediction.upright import upright
from mask_frozen_detr.results.drawing import draw_instances
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.prediction_files import describe_found
from mask_frozen_detr.results.predictor import Predictor

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
RATE = 25  # frames a second of a film that does not say


def is_film(path: str | Path) -> bool:
    """Whether a file is a film, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def predict_frames(
    model: Predictor,
    frames: Iterable[Any],
    score_threshold: float = 0.3,
    max_detections: int | None = None,
    classes: Sequence[str] | None = None,
    track: bool = False,
    rate: float = RATE,
) -> Iterator[Instances]:
    """The instances of each frame as it comes: of a camera, a film, any iterable. Arguments as of `predict`.

    track: follow objects, of so many frames a second (`rate`), and number them in `Instances.tracks`; see `tracking`.
    Raises UserError without the library that follows.
    """
    look = _looking(model, score_threshold, max_detections, classes, rate if track else None)
    for frame in frames:
        yield look(frame)


def _looking(
    model: Predictor,
    score_threshold: float,
    max_detections: int | None,
    classes: Sequence[str] | None,
    rate: float | None,
) -> Callable[[Any], Instances]:
    """What gives the instances of one frame after the other. rate: of a film whose objects are followed."""
    if rate is None:
        return lambda frame: model.predict(frame, score_threshold, max_detections, classes=classes)
    tracker = Tracker(rate, score_threshold)
    return lambda frame: tracker.follow(model.predict(frame, tracker.least_score, max_detections, classes=classes))


def predict_film(
    model: Predictor,
    film: Path,
    output: Path,
    score_threshold: float = 0.3,
    max_detections: int | None = None,
    classes: Sequence[str] | None = None,
    font: Path | None = None,
    track: bool = False,
) -> str:
    """Writes NAME.mp4 with masks, boxes and names, and NAME.jsonl, an object a frame; returns a line about them.

    A line holds "frame", from 0, "time" in seconds, "width", "height" and "objects": category_id, name, bbox, area,
    score and segmentation (run lengths) as COCO writes them; with `track` also "track", a number that an object keeps
    from frame to frame, null where it was not seen before. A film that ends early gives what could be decoded, and
    so does an interruption.
    Raises UserError without PyAV, with `track` without trackers, for a film of which not one frame can be read, and
    where a file of these names is there already.
    """
    av = _pyav()
    targets = output / f"{film.stem}.mp4", output / f"{film.stem}.jsonl"
    for target in targets:
        if target.exists() or target.is_symlink():
            raise UserError(f"{printable(str(target))}: is there already, so it stays; name another --output")
    output.mkdir(parents=True, exist_ok=True)
    try:
        check_regular(film)
        source = av.open(str(film))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{printable(str(film))}: cannot be read as a film ({reason(error)})") from None
    names = model.class_names
    parts = [target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}") for target in targets]
    done, ended = 0, ""
    try:
        with source, open(parts[1], "x", encoding="utf-8") as lines:
            if not source.streams.video:
                raise UserError(f"{printable(str(film))}: holds no pictures, expected a film")
            stream = source.streams.video[0]
            rate, stated = stream.average_rate or Fraction(RATE), stream.frames
            look = _looking(model, score_threshold, max_detections, classes, float(rate) if track else None)
            bar = Progress("predicting", stated or 1)
            with av.open(str(parts[0]), "w") as sink:
                writer = _Writer(av, sink, rate)
                try:
                    for frame in source.decode(stream):
                        picture = upright(frame)
                        found = look(picture)
                        writer.add(draw_instances(picture, found, font))
                        _write_line(lines, done, float(frame.time or done / rate), found, names)
                        done += 1
                        bar.update(min(done, stated or 1))
                except av.FFmpegError as error:
                    ended = f", then the film could not be decoded ({reason(error)})"
                finally:  # an interruption, too, leaves a film that can be played
                    writer.finish()
                    lines.flush()
                    if done:
                        _publish(parts[1], targets[1])
            bar.close()
        if not done:
            raise UserError(f"{printable(str(film))}: not one frame can be read{ended}")
    finally:
        if done and parts[0].exists():
            _publish(parts[0], targets[0])
        for part in parts:
            part.unlink(missing_ok=True)
    if not ended and stated and done < stated:
        ended = f", then the film ended; it says that it has {stated}"
    return f"{done} frames of {printable(film.name)} in {printable(str(targets[0]))} and {targets[1].name}{ended}"


class _Writer:
    """An H.264 film; its size, even as the format wants it, is that of the first picture."""

    def __init__(self, av: Any, sink: Any, rate: Fraction):
        self.av, self.sink, self.rate = av, sink, rate
        self.stream: Any = None

    def add(self, picture: Image.Image) -> None:
        if self.stream is None:
            self.stream = self.sink.add_stream("libx264", rate=self.rate)
            self.stream.width, self.stream.height = (side + side % 2 for side in picture.size)
            self.stream.pix_fmt = "yuv420p"
        canvas = Image.new("RGB", (self.stream.width, self.stream.height))
        canvas.paste(picture)
        self.sink.mux(self.stream.encode(self.av.VideoFrame.from_image(canvas)))

    def finish(self) -> None:
        if self.stream is not None:
            self.sink.mux(self.stream.encode())


def _write_line(lines: IO[str], number: int, time: float, found: Instances, names: Sequence[str]) -> None:
    objects = [{"name": names[entry["category_id"]], **entry} for entry in describe_found(found)]
    if found.tracks is not None:
        for entry, number_of_it in zip(objects, found.tracks.tolist(), strict=True):
            entry["track"] = number_of_it if number_of_it >= 0 else None
    line = {"frame": number, "time": time, "width": found.width, "height": found.height, "objects": objects}
    lines.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def _publish(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("films: PyAV is not installed; pip install 'mask-frozen-detr[video]'") from error
    return av
