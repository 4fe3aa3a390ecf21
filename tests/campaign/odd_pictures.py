"""Pictures that cameras, scanners, drawing programs and accidents leave: one that cannot be read is one line."""

import io
import json
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from campaign.bench import Bench, Try, predictions
from campaign.commands import manners, run

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "La"]
SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (3000, 1), (1, 3000), (6000, 2), (2, 6000), (31, 33), (640, 480), (1000, 700)]
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def _noise(random: Random, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.fromarray(pixels).convert("RGB").copy() if size == (1, 1) else _lab(image)
    if mode in ("PA", "La", "RGBa"):
        return image.convert("RGBA").convert({"PA": "P", "La": "LA", "RGBa": "RGBa"}[mode])
    return image.convert(mode)


def _lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert converted is not None
    return converted


def _written(random: Random, **options: object) -> tuple[bytes, str]:
    """A picture of any mode and size, in the first format that takes it."""
    image, mode = None, ""
    while image is None:
        mode = random.choice(MODES)
        image = _noise(random, random.choice(SIZES), mode)
        formats = random.sample(list(SUFFIXES), len(SUFFIXES))
        for kind in formats:
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind, **options)
            except (OSError, ValueError, KeyError, TypeError):
                continue
            return buffer.getvalue(), SUFFIXES[kind]
        image = None
    raise AssertionError


def _png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def _oriented(random: Random) -> tuple[bytes, str]:
    exif = Image.Exif()
    exif[0x0112] = random.choice([*range(1, 9), 0, 9, 65535, "six"])
    image = _noise(random, random.choice(SIZES))
    suffix = random.choice([".jpg", ".png", ".webp", ".tif"])
    buffer = io.BytesIO()
    try:
        image.save(buffer, {v: k for k, v in SUFFIXES.items()}[suffix], exif=exif)
    except Exception:  # Pillow does not write this tag
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        suffix = ".png"
    return buffer.getvalue(), suffix


def _broken_exif(random: Random) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    _noise(random, (64, 48)).save(buffer, "JPEG", exif=b"Exif\0\0" + random.randbytes(random.choice([0, 4, 60, 3000])))
    return buffer.getvalue(), ".jpg"


def _animation(random: Random) -> tuple[bytes, str]:
    frames = [_noise(random, (40, 30)) for _ in range(3)]
    kind = random.choice(["WEBP", "PNG", "TIFF", "GIF"])
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue(), {**SUFFIXES, "GIF": random.choice([".gif", ".png"])}[kind]


def _bomb(random: Random) -> tuple[bytes, str]:
    side = random.choice([9000, 14_000, 20_000, 60_000, 2**31 - 1])
    rows = b"" if side > 20_000 or random.random() < 0.5 else bytes(side * (side // 8 + 1))
    return _png(side, side, 1, 0, rows), ".png"


def _palette(random: Random) -> tuple[bytes, str]:
    image = _noise(random, (50, 40)).quantize(random.choice([2, 16, 256]))
    buffer = io.BytesIO()
    transparency = random.choice([0, bytes(range(16)), bytes(256)])
    image.save(buffer, "PNG", transparency=transparency)
    return buffer.getvalue(), ".png"


def _spoilt(random: Random) -> tuple[bytes, str]:
    written, suffix = _written(random)
    data = bytearray(written)
    how = random.choice(["cut", "cut", "flip", "flip", "suffix", "nothing", "text", "zeros"])
    if how == "cut":
        data = data[: random.randrange(len(data))]
    elif how == "flip":
        for _ in range(random.choice([1, 5, 50])):
            data[random.randrange(min(len(data), random.choice([50, 500, 10**7])))] ^= 1 << random.randrange(8)
    elif how == "suffix":
        suffix = random.choice(list(SUFFIXES.values()))
    elif how in ("nothing", "text", "zeros"):
        data = bytearray({"nothing": b"", "text": b"<html>404 not found</html>", "zeros": bytes(2000)}[how])
    return bytes(data), suffix


PICTURES: dict[str, Callable[[Random], tuple[bytes, str]]] = {
    "any mode": _written,
    "orientation": _oriented,
    "broken EXIF": _broken_exif,
    "animation": _animation,
    "bomb": _bomb,
    "palette": _palette,
    "spoilt": _spoilt,
    "16 bit": lambda random: (
        _png(30, 20, 16, random.choice([0, 2, 4, 6]), random.randbytes(20 * (30 * 8 + 1))),
        ".png",
    ),
}
NOT_FILES = ["a folder", "nothing", "a FIFO", "a link to itself", "a link to nowhere", "/dev/zero", "empty", "a socket"]


def put_not_a_file(path: Path, random: Random) -> str:
    """Something else in a file's place, if there is one; says what."""
    path.unlink(missing_ok=True)
    how = random.choice(NOT_FILES)
    if how == "a folder":
        path.mkdir()
    elif how == "a FIFO":
        os.mkfifo(path)
    elif how == "a link to itself":
        path.symlink_to(path.name)
    elif how == "a link to nowhere":
        path.symlink_to("gone")
    elif how == "/dev/zero":
        path.symlink_to("/dev/zero")
    elif how == "empty":
        path.touch()
    elif how == "a socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name is short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
        os.chdir(here)
    return f"{path.name} is {how}"


def put(path: Path, random: Random) -> tuple[Path, str]:
    """Something at `path` with a suffix of its own; what it is."""
    if random.random() < 0.2:
        path = path.with_suffix(random.choice([".jpg", ".png"]))
        return path, put_not_a_file(path, random)
    how = random.choice(list(PICTURES))
    data, suffix = PICTURES[how](random)
    suffix = suffix.upper() if random.random() < 0.1 else suffix
    path = path.with_suffix(suffix)
    path.write_bytes(data)
    return path, how


def predicted(bench: Bench, random: Random, folder: Path) -> Try:
    """`predict` on a folder with good and odd ones: the good ones are there, the others are there or named."""
    pictures = folder / "pictures"
    pictures.mkdir()
    good = bench.pictures()[0]
    shutil.copy(good, pictures / f"m-{good.name}")
    odd = [put(pictures / f"{random.choice('az')}{number}", random) for number in range(random.randrange(1, 4))]
    inputs = [pictures] if random.random() < 0.7 else sorted(pictures.iterdir())
    ran = run(["predict", bench.run, *inputs, "--output", folder / "out"], folder)
    return Try("; ".join(f"{path.name}: {how}" for path, how in odd), _check(ran, odd, good, inputs, folder))


def _check(ran, odd: list[tuple[Path, str]], good: Path, inputs: list[Path], folder: Path) -> list[str]:
    faults = manners(ran)
    if faults:
        return faults
    if ran.code:
        return [f"odd pictures end it all: {ran.last_line}"]
    content = predictions(folder / "out", folder)
    if content is None:
        return ["no predictions.json"]
    found = {Path(image["file_name"]).name: image for image in content["images"]}
    if f"m-{good.name}" not in found:
        faults.append("the good picture is not predicted")
    for path, how in odd:
        there = os.path.lexists(path) and not path.is_dir()
        if there and path.name not in found and path.name not in ran.text:
            suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
            if path.suffix.lower() in suffixes or "not read" not in ran.text:
                faults.append(f"{path.name} ({how}) is left out without a word")
        if path.name in found and path.is_file():
            with Image.open(path) as image:
                turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
                size = image.size[::-1] if turned and image.format != "TIFF" else image.size
            if (found[path.name]["width"], found[path.name]["height"]) != size:
                faults.append(f"{path.name} ({how}): size {found[path.name]}, Pillow says {size}")
    return faults


def _inside(entry: dict[str, Any], said: dict[str, Any]) -> bool:
    """Whether an annotation is of a picture and its box within it; of a tiny picture all may be refused."""
    x, y, w, h = entry["bbox"]
    return entry["image_id"] == said["id"] and x + w <= said["width"] and y + h <= said["height"]


def _usable(path: Path, said: dict[str, Any]) -> bool:
    """Whether Pillow reads a picture whole, at the size that is said of it; a split without one may be refused."""
    try:
        if not path.is_file():
            return False
        with Image.open(path) as opened:
            opened.load()
            fits = opened.size == (said["width"], said["height"])
            return fits and opened.mode not in ("F", "I")  # of which only few can be drawn in 8 bits
    except Exception:
        return False


def of_data(bench: Bench, random: Random, folder: Path) -> Try:
    """`train` and `evaluate` on data of which some pictures are odd."""
    data = shutil.copytree(bench.data, folder / "data")
    split = random.choice(["train2017", "val2017"])
    json_file = data / "annotations" / f"instances_{split}.json"
    document = json.loads(json_file.read_text())
    what = []
    for image in random.sample(document["images"], random.choice([1, 2])):
        (data / split / image["file_name"]).unlink()
        path, how = put(data / split / f"odd{image['id']}", random)
        image["file_name"] = path.name
        what.append(f"{path.name}: {how}")
        if random.random() < 0.7 and path.is_file() and not path.is_symlink():
            try:
                with Image.open(path) as opened:
                    image["width"], image["height"] = opened.size
            except Exception:
                continue
    json_file.write_text(json.dumps(document))
    if split == "val2017" and random.random() < 0.7:
        command = ["evaluate", str(bench.run), str(data), "--workers", random.choice(["0", "1"])]
    else:
        command = bench.train(folder / "run")
        command[2] = str(data)
    ran = run(command, folder)
    faults = manners(ran)
    usable = [one for one in document["images"] if _usable(data / split / one["file_name"], one)]
    if not faults and ran.code and any(_inside(entry, one) for one in usable for entry in document["annotations"]):
        faults.append(f"odd pictures end it all: {ran.last_line}")
    return Try(f"{command[0]}, {split}, {'; '.join(what)}", faults)
