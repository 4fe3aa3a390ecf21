"""Films: an overlay film and a line a frame; films that end early, are none, or would replace something."""

import json
import struct
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.prediction.films import is_film, predict_film, predict_frames
from mask_frozen_detr.prediction.upright import TURNS, upright
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop

av = pytest.importorskip("av", reason="the extra video is not installed")
W, H = 65, 48  # an odd side, which H.264 does not know


@pytest.fixture(scope="module")
def model(squashing) -> MaskFrozenDetr:
    return MaskFrozenDetr.training_free(squashing).eval()


def write_film(path: Path, frames: int = 5, codec: str = "mpeg4", times: Sequence[int] = (), shape: int = 1) -> Path:
    """times: of the frames, in milliseconds; without them ten a second. shape: width of a pixel, by its height."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = W - 1, H, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(shape)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(len(times) or frames):
            frame = av.VideoFrame.from_image(Image.fromarray(rng.integers(0, 255, (H, W - 1, 3), dtype=np.uint8)))
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode())
    return path


def frames_of(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as source:
        return [frame.to_image() for frame in source.decode(video=0)]


def test_a_film(model, tmp_path):
    film = write_film(tmp_path / "film.mp4")
    text = predict_film(model, film, tmp_path / "out", 0.0)
    assert text.startswith("5 frames of film.mp4")
    lines = [json.loads(line) for line in (tmp_path / "out/film.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(5))
    assert [line["time"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    pictures = frames_of(film)
    assert [picture.size for picture in frames_of(tmp_path / "out/film.mp4")] == [(W - 1, H)] * 5
    for line, found in zip(lines, predict_frames(model, pictures, 0.0), strict=True):
        assert [entry["segmentation"] for entry in line["objects"]] == found.to_rle()
        assert [entry["name"] for entry in line["objects"]] == found.names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film.jsonl", "film.mp4"]
    with pytest.raises(UserError, match=r"film\.mp4: is there already, so it stays"):
        predict_film(model, film, tmp_path / "out")


def test_frames_stand_at_the_times_of_the_film(tmp_path):
    """Of a camera that is slow in the dark: the rate in the middle is that of no frame."""
    times = [0, 40, 80, 380, 1180]
    predict_film(walkers(), write_film(tmp_path / "film.mkv", times=times, shape=2), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/film.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == pytest.approx([time / 1000 for time in times])
    with av.open(str(tmp_path / "out/film.mp4")) as overlay:
        assert overlay.streams.video[0].sample_aspect_ratio == 2
        assert [frame.time for frame in overlay.decode(video=0)] == pytest.approx([time / 1000 for time in times])


@pytest.mark.parametrize(
    ("frames", "kept", "said"),
    [(30, 1.0, ""), (30, 0.5, ", then the film ended, after "), (5, 0.9, "")],
    ids=["whole", "half of it", "less than a second is missing"],
)
def test_a_film_that_does_not_count_its_frames(frames, kept, said, tmp_path, capsys):
    film = write_film(tmp_path / "film.mkv", frames)
    content = film.read_bytes()
    film.write_bytes(content[: int(len(content) * kept)])
    text = predict_film(walkers(), film, tmp_path / "out")
    assert text.partition("film.jsonl")[2].startswith(said)
    assert bool(said) == ("film ended" in text)
    assert not said or "it says that it lasts 3.0 s" in text
    assert capsys.readouterr().err.count("predicting") <= 1


def test_lines_without_an_overlay(tmp_path):
    predict_film(walkers(), write_film(tmp_path / "film.mp4"), tmp_path / "out", overlay=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.jsonl"]
    assert len((tmp_path / "out/film.jsonl").read_text().splitlines()) == 5


def turn_film(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) into an MP4's track header, where phones have it."""
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    a, b, c, d = (number << 16 for number in matrix)
    content = path.read_bytes()
    place = content.index(plain, content.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + len(plain) :])


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), *TURNS], ids=str)
def test_films_that_are_stored_turned(model, tmp_path, matrix):
    """Each quarter is where the matrix, by its definition, takes its centre."""
    colours = {(-1, -1): (230, 0, 0), (1, -1): (0, 230, 0), (-1, 1): (0, 0, 230), (1, 1): (230, 230, 230)}
    stored = np.zeros((H, W - 1, 3), np.uint8)
    for (x, y), colour in colours.items():
        stored[H // 2 * (y > 0) :][: H // 2, W // 2 * (x > 0) :][:, : W // 2] = colour
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as sink:
        stream = sink.add_stream("mpeg4", rate=10, width=W - 1, height=H, pix_fmt="yuv420p")
        sink.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        sink.mux(stream.encode())
    turn_film(film, matrix)
    with av.open(str(film)) as source:
        shown = np.asarray(upright(next(source.decode(video=0)))).astype(int)
    a, b, c, d = matrix
    for (x, y), colour in colours.items():
        across, down = a * x + c * y, b * x + d * y
        place = shown.shape[0] * (2 + down) // 4, shown.shape[1] * (2 + across) // 4
        assert abs(shown[place] - colour).max() < 60
    predict_film(model, film, tmp_path / "out", 0.0)
    line = json.loads((tmp_path / "out/film.jsonl").read_text())
    assert (line["height"], line["width"]) == shown.shape[:2]
    assert shown.shape[:2] == ((H, W - 1) if a else (W - 1, H))


def test_what_was_decoded_before_an_early_end_is_kept(model, tmp_path):
    film = write_film(tmp_path / "film.mkv", 8)
    content = film.read_bytes()
    film.write_bytes(content[: len(content) * 2 // 3])
    predict_film(model, film, tmp_path / "out")
    lines = (tmp_path / "out/film.jsonl").read_text().splitlines()
    assert 0 < len(lines) < 8
    assert len(frames_of(tmp_path / "out/film.mp4")) == len(lines)


def test_an_interruption_keeps_what_is_done(model, tmp_path, monkeypatch):
    film, calls, predict = write_film(tmp_path / "film.mp4"), [], model.predict

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*args, **kwargs)

    monkeypatch.setattr(model, "predict", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_film(model, film, tmp_path / "out")
    assert len((tmp_path / "out/film.jsonl").read_text().splitlines()) == 2
    assert len(frames_of(tmp_path / "out/film.mp4")) == 2


@pytest.mark.parametrize("content", [b"", b"no film at all" * 99])
def test_what_is_no_film(content, model, tmp_path):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"film\.mp4: (cannot be read as a film|not one frame|holds no pictures)"):
        predict_film(model, tmp_path / "film.mp4", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert is_film("A.MP4")
    assert not is_film("a.jpg")


def test_frames_come_one_by_one(model):
    def camera():
        yield np.zeros((H, W, 3), np.uint8)
        raise AssertionError("the second frame was asked for too early")

    stream = predict_frames(model, camera())
    assert next(stream).width == W


def test_one_bad_film_costs_no_other(squashing_folder, tmp_path, capsys):
    bad, good, picture = tmp_path / "bad.mp4", write_film(tmp_path / "good.mp4", 2), tmp_path / "a.png"
    bad.write_bytes(b"no film")
    Image.new("RGB", (64, 48)).save(picture)
    words = ["predict", str(squashing_folder), str(bad), str(good), str(picture), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"skipped: {bad}: cannot be read as a film" in said
    assert {"good.mp4", "good.jsonl", "a.png", "predictions.json"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert main(["predict", str(squashing_folder), str(bad), "--output", str(tmp_path / "other")]) == 2
    assert main(["predict", str(squashing_folder), str(bad), str(bad), "--output", str(tmp_path / "other")]) == 2


def test_a_pattern_of_films(squashing_folder, tmp_path, capsys):
    for name in ("a1.mp4", "a2.mp4", "a[1].mkv"):
        write_film(tmp_path / name, 1)
    words = ["predict", str(squashing_folder), "--output", str(tmp_path / "out")]
    assert main([*words, str(tmp_path / "a?.mp4"), str(tmp_path / "a[1].mkv")]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.jsonl")} == {"a1.jsonl", "a2.jsonl", "a[1].jsonl"}
    (tmp_path / "b.mp4").write_bytes(b"no film")
    (tmp_path / "c.mp4").write_bytes(b"no film")
    assert main([*words, str(tmp_path / "[bc].mp4")]) == 2
    assert "no film could be used" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "z*.mp4")]) == 2


@pytest.mark.parametrize("option", ["--format=yolo", "--probability-maps", "--overlay-format=jpg"])
def test_what_films_do_not_give_is_refused(option, tmp_path, capsys):
    film = write_film(tmp_path / "film.mp4", 1)
    assert main(["predict", "no-run", str(film), "--output", str(tmp_path / "out"), option]) == 2
    assert f"{option.replace('=', ' ')}: found films alone" in capsys.readouterr().err


def test_whatever_fails_on_a_film_is_one_line(squashing_folder, tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> str:
        raise MemoryError

    monkeypatch.setattr("mask_frozen_detr.prediction.films.predict_film", fail)
    film, picture = tmp_path / "film.mp4", tmp_path / "a.png"
    (tmp_path / "notes").mkdir()
    Image.new("RGB", (64, 48)).save(picture)
    words = ["predict", str(squashing_folder), "--output", str(tmp_path / "out")]
    assert main([*words, str(film), str(picture), str(tmp_path / "notes")]) == 0
    said = capsys.readouterr().out
    assert f"skipped: {film}: not enough memory" in said
    assert "not read: 1 × folder without a picture" in said
    assert main([*words, str(film)]) == 2
    assert f"{film}: not enough memory" in capsys.readouterr().err


class Walkers:
    """Stands for a model: two boxes that walk, one of which scores little in the middle and is joined by another."""

    class_names = ("cat", "dog")

    def __init__(self):
        self.frame = 0

    def predict(self, picture, score_threshold=0.3, max_detections=None, classes=None):
        x, self.frame = 2.0 * self.frame, self.frame + 1
        boxes = [[x, 5, x + 14, 20], [40 - x, 24, 60 - x, 44], [30, 0, 38, 8]]
        faint = 0.9 if self.frame < 3 else 0.15
        scores = np.array([0.8, faint, 0.12], np.float32)
        order = [1, 0, 2] if self.frame % 2 else [0, 1, 2]  # places tell nothing
        crops = [Crop(1, 1, np.ones((2, 2), bool))] * 3
        labels = np.array([0, 1, 1])
        found = Instances(np.array(boxes, np.float32), scores, scores, labels, ["cat", "dog", "dog"], crops, H, W - 1)
        return found[order].above(score_threshold)


def walkers() -> Any:
    return Walkers()


def test_objects_keep_their_numbers(tmp_path):
    pytest.importorskip("trackers", reason="the extra track is not installed")
    film = write_film(tmp_path / "film.mp4", 6)
    predict_film(walkers(), film, tmp_path / "out", 0.3, track=True)
    lines = [json.loads(line) for line in (tmp_path / "out/film.jsonl").read_text().splitlines()]
    numbers = [{one["name"]: one["track"] for one in line["objects"]} for line in lines]
    assert set(numbers[0].values()) == {None}
    assert set(numbers[1].values()) == {0, 1}
    assert numbers[1:] == [numbers[1]] * 5, "the faint one is followed, and what was never found stays out"
    streamed = list(predict_frames(walkers(), frames_of(film), 0.3, track=True, rate=10))
    assert [dict(zip(one.names, np.array(one.tracks).tolist(), strict=True)) for one in streamed[1:]] == numbers[1:]


def test_without_the_library_that_follows(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match=r"track: the library trackers .*mask-frozen-detr\[track\]"):
        predict_film(walkers(), write_film(tmp_path / "film.mp4"), tmp_path / "out", track=True)
    assert not list((tmp_path / "out").iterdir())
