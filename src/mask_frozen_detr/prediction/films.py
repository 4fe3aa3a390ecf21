"""Films and streams of frames: an overlay film and a line of JSON a frame; instances frame by frame from Python.

Films are read and written through PyAV, the extra `video`. What was decoded before a film ends early, or before an
interruption, is kept.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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
CLOCK = 90_000  # ticks a second, MPEG's: frames at any usual rate stand on whole ones
EARLY = 0.9  # of the time that it says it lasts: a film of less than that, by a second or more, ended early


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
    overlay: bool = True,
) -> str:
    """Writes NAME.mp4 with masks, boxes and names, and NAME.jsonl, an object a frame; returns a line about them.

    Frames of NAME.mp4 stand at the times of the film's own, without its sound; overlay: False leaves it out. A line
    holds "frame", from 0, "time" in seconds, "width", "height" and "objects": category_id, name, bbox, area,
    score and segmentation (run lengths) as COCO writes them; with `track` also "track", a number that an object keeps
    from frame to frame, null where it was not seen before. A film that ends early gives what could be decoded, and
    so does an interruption.
    Raises UserError without PyAV, with `track` without trackers, for a film of which not one frame can be read, and
    where a file of these names is there already.
    """
    av = _pyav()
    targets = [output / f"{film.stem}.jsonl", *([output / f"{film.stem}.mp4"] if overlay else [])]
    for target in reversed(targets):
        if target.exists() or target.is_symlink():
            raise UserError(f"{printable(str(target))}: is there already, so it stays; name another --output")
    output.mkdir(parents=True, exist_ok=True)
    ended = ""
    with _open_film(av, film) as source:
        if not source.streams.video:
            raise UserError(f"{printable(str(film))}: holds no pictures, expected a film")
        stream = source.streams.video[0]
        rate = stream.average_rate or Fraction(RATE)
        seconds = _seconds(av, source, stream)
        total = stream.frames or int(seconds * rate)
        look = _looking(model, score_threshold, max_detections, classes, float(rate) if track else None)
        bar = Progress("predicting", max(1, total), quiet=not total)
        with _writing(av, targets, stream, rate, model.class_names, font) as written:
            try:
                for frame in source.decode(stream):
                    picture = upright(frame)
                    written.add(picture, frame.time, look(picture))
                    bar.update(min(written.frames, stream.frames or total - 1))
            except av.FFmpegError as error:
                ended = f", then the film could not be decoded ({_why(error)})"
        bar.close()
    if not written.frames:
        raise UserError(f"{printable(str(film))}: not one frame can be read{ended}")
    if not ended:
        ended = _ended_early(written, stream.frames, seconds)
    where = " and ".join(printable(str(target)) for target in reversed(targets))
    return f"{written.frames} frames of {printable(film.name)} in {where}{ended}"


def _seconds(av: Any, source: Any, stream: Any) -> float:
    """How long a film says that it lasts, 0 where it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (source.duration or 0) / av.time_base


def _ended_early(written: "_Written", frames: int, seconds: float) -> str:
    """What to say of a film that says it has more frames, or, where it does not, that it lasts longer."""
    if frames:
        return f", then the film ended; it says that it has {frames}" if written.frames < frames else ""
    if written.seconds > min(EARLY * seconds, seconds - 1):
        return ""
    return f", then the film ended, after {written.seconds:.1f} s; it says that it lasts {seconds:.1f} s"


def _open_film(av: Any, film: Path) -> Any:
    try:
        check_regular(film)
        return av.open(str(film))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{printable(str(film))}: cannot be read as a film ({_why(error)})") from None


def _why(error: OSError) -> str:
    """What FFmpeg or the system says, without the number and the function that it says it with."""
    return printable(error.strerror or reason(error))


class _Written:
    """The overlay film, if one is wanted, and the lines of a film as they grow.

    frames: how many there are. seconds: which they last.
    """

    def __init__(
        self, film: "_Encoder | None", lines: IO[str], rate: Fraction, names: Sequence[str], font: Path | None
    ):
        self.frames, self.seconds = 0, 0.0
        self._film, self._lines, self._rate, self._names, self._font = film, lines, rate, names, font
        self._start = 0.0

    def add(self, picture: Image.Image, time: float | None, instances: Instances) -> None:
        """The next frame. time: in seconds, None where the film does not tell."""
        at = float(self.frames / self._rate if time is None else time)
        if not self.frames:
            self._start = at
        if self._film is not None:
            self._film.add(draw_instances(picture, instances, self._font), at - self._start)
        _write_line(self._lines, self.frames, at, instances, self._names)
        self.frames, self.seconds = self.frames + 1, at - self._start + float(1 / self._rate)


@contextmanager
def _writing(
    av: Any, targets: Sequence[Path], stream: Any, rate: Fraction, names: Sequence[str], font: Path | None
) -> Iterator[_Written]:
    """Writes under other names, which change to `targets` at the end: an interruption leaves a film that can be played.

    targets: of the lines, and of the overlay film, if one is wanted. Without a single frame nothing is left.
    """
    parts = [target.with_name(f".{target.stem}.{secrets.token_hex(8)}.part{target.suffix}") for target in targets]
    frames = 0
    try:
        with ExitStack() as opened:
            lines = opened.enter_context(open(parts[0], "x", encoding="utf-8"))
            films = [opened.enter_context(closing(_Encoder(av, part, stream, rate))) for part in parts[1:]]
            written = _Written(films[0] if films else None, lines, rate, names, font)
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
    """An H.264 film; its size, even as the format wants it, is that of the first picture, its pixels' shape the film's.

    source: the stream that the pictures are of.
    """

    def __init__(self, av: Any, path: Path, source: Any, rate: Fraction):
        self.av, self.source, self.rate = av, source, rate
        self.sink = av.open(str(path), "w")
        self.stream: Any = None
        self.tick = -1

    def add(self, picture: Image.Image, time: float) -> None:
        """time: since the first, in seconds; a film whose clock goes back goes on at its rate."""
        if self.stream is None:
            self._begin(*picture.size)
        canvas = Image.new("RGB", (self.stream.width, self.stream.height))
        canvas.paste(picture)
        frame = self.av.VideoFrame.from_image(canvas)
        tick = round(time * CLOCK)
        self.tick = tick if tick > self.tick else self.tick + round(CLOCK / self.rate)
        frame.pts, frame.time_base = self.tick, Fraction(1, CLOCK)
        self.sink.mux(self.stream.encode(frame))

    def _begin(self, width: int, height: int) -> None:
        self.stream = self.sink.add_stream("libx264", rate=self.rate)
        self.stream.width, self.stream.height = width + width % 2, height + height % 2
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, CLOCK)
        if shape := self.source.sample_aspect_ratio:
            self.stream.codec_context.sample_aspect_ratio = shape

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
