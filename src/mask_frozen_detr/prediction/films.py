"""Films and streams of frames: an overlay film and a line of JSON a frame; instances frame by frame from Python.

Films are read and written through PyAV, the extra `video`. What was decoded before a film ends early, or before an
interruption, is kept.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
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
    ended = ""
    with _open_film(av, film) as source:
        if not source.streams.video:
            raise UserError(f"{printable(str(film))}: holds no pictures, expected a film")
        stream = source.streams.video[0]
        rate, stated = stream.average_rate or Fraction(RATE), stream.frames
        look = _looking(model, score_threshold, max_detections, classes, float(rate) if track else None)
        bar = Progress("predicting", stated or 1)
        with _writing(av, targets, rate, model.class_names, font) as written:
            try:
                for frame in source.decode(stream):
                    picture = upright(frame)
                    written.add(picture, frame.time, look(picture))
                    bar.update(min(written.frames, stated or 1))
            except av.FFmpegError as error:
                ended = f", then the film could not be decoded ({reason(error)})"
        bar.close()
    if not written.frames:
        raise UserError(f"{printable(str(film))}: not one frame can be read{ended}")
    if not ended and stated and written.frames < stated:
        ended = f", then the film ended; it says that it has {stated}"
    where = f"{printable(str(targets[0]))} and {targets[1].name}"
    return f"{written.frames} frames of {printable(film.name)} in {where}{ended}"


def _open_film(av: Any, film: Path) -> Any:
    try:
        check_regular(film)
        return av.open(str(film))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{printable(str(film))}: cannot be read as a film ({reason(error)})") from None


class _Written:
    """The overlay film and the lines of a film as they grow. frames: how many there are."""

    def __init__(self, film: "_Encoder", lines: IO[str], rate: Fraction, names: Sequence[str], font: Path | None):
        self.frames = 0
        self._film, self._lines, self._rate, self._names, self._font = film, lines, rate, names, font

    def add(self, picture: Image.Image, time: float | None, instances: Instances) -> None:
        """The next frame. time: in seconds, None where the film does not tell."""
        self._film.add(draw_instances(picture, instances, self._font))
        _write_line(self._lines, self.frames, float(time or self.frames / self._rate), instances, self._names)
        self.frames += 1


@contextmanager
def _writing(
    av: Any, targets: Sequence[Path], rate: Fraction, names: Sequence[str], font: Path | None
) -> Iterator[_Written]:
    """Writes under other names, which change to `targets` at the end: an interruption leaves a film that can be played.

    Without a single frame nothing is left.
    """
    parts = [target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}") for target in targets]
    frames = 0
    try:
        with open(parts[1], "x", encoding="utf-8") as lines, closing(_Encoder(av, parts[0], rate)) as film:
            written = _Written(film, lines, rate, names, font)
            try:
                yield written
            finally:
                frames = written.frames
    finally:
        for part, target in zip(parts, targets, strict=True):
            if frames and part.exists() and not target.exists():
                part.rename(target)
            part.unlink(missing_ok=True)


class _Encoder:
    """An H.264 film; its size, even as the format wants it, is that of the first picture."""

    def __init__(self, av: Any, path: Path, rate: Fraction):
        self.av, self.rate = av, rate
        self.sink = av.open(str(path), "w")
        self.stream: Any = None

    def add(self, picture: Image.Image) -> None:
        if self.stream is None:
            self.stream = self.sink.add_stream("libx264", rate=self.rate)
            self.stream.width, self.stream.height = (side + side % 2 for side in picture.size)
            self.stream.pix_fmt = "yuv420p"
        canvas = Image.new("RGB", (self.stream.width, self.stream.height))
        canvas.paste(picture)
        self.sink.mux(self.stream.encode(self.av.VideoFrame.from_image(canvas)))

    def close(self) -> None:
        if self.stream is not None:
            self.sink.mux(self.stream.encode())
        self.sink.close()


def _write_line(lines: IO[str], number: int, time: float, instances: Instances, names: Sequence[str]) -> None:
    objects = [{"name": names[entry["category_id"]], **entry} for entry in describe_found(instances)]
    if instances.tracks is not None:
        for entry, track in zip(objects, instances.tracks.tolist(), strict=True):
            entry["track"] = track if track >= 0 else None
    line = {"frame": number, "time": time, "width": instances.width, "height": instances.height, "objects": objects}
    lines.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("films: PyAV is not installed; pip install 'mask-frozen-detr[video]'") from error
    return av
