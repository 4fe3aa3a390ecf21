"""Images of every kind users have come out as upright 8-bit RGB; broken ones are named."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_frozen_detr.data.images import PIXELS_VARIABLE, find_images, read_image
from mask_frozen_detr.data.inputs import to_picture
from mask_frozen_detr.errors import UserError

W, H = 8, 6
RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


def quarters(width=W, height=H) -> Image.Image:
    """Red, green / blue, grey: every turn and flip shows."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return Image.fromarray(pixels)


def png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> None:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


# EXIF orientation → how the stored pixels lie, given the upright ones.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_photos_stand_upright(tmp_path, orientation, suffix):
    upright = np.asarray(quarters())
    stored = np.ascontiguousarray(STORED[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(stored).save(path, exif=exif, lossless=True)
    assert np.array_equal(np.asarray(read_image(path)), upright)
    assert np.array_equal(np.asarray(read_image(path, apply_exif=False)), stored)


def test_a_turned_jpeg(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    quarters(64, 48).rotate(90, expand=True).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "photo.jpg")
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(quarters(64, 48))).mean() < 3


def test_damaged_exif_does_not_matter(tmp_path):
    quarters().save(tmp_path / "photo.png", exif=b"Exif\0\0no TIFF header at all")
    assert np.array_equal(np.asarray(read_image(tmp_path / "photo.png")), np.asarray(quarters()))


def test_16_bit_grey_keeps_its_range(tmp_path):
    values = np.array([[0, 128, 257, 640], [32768, 40000, 65278, 65535]], dtype=np.uint16)
    expected = np.round(values / 257)
    for name, array in {"le.png": values, "le.tif": values, "be.tif": values.astype(">u2")}.items():
        Image.fromarray(array).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.repeat(expected[..., None], 3, 2)), name
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "signed.tif")  # mode I, as older Pillow opens PNG
    assert np.array_equal(np.asarray(read_image(tmp_path / "signed.tif"))[..., 1], expected)


def test_16_bit_colour_and_16_bit_alpha(tmp_path):
    samples = np.array([[[65535, 0, 257 * 40], [257 * 7, 257 * 8, 257 * 9]]], dtype=">u2")
    png(tmp_path / "rgb.png", 2, 1, 16, 2, b"\0" + samples.tobytes())
    assert np.asarray(read_image(tmp_path / "rgb.png")).tolist() == [[[255, 0, 40], [7, 8, 9]]]
    samples = np.array([[[0, 65535], [0, 0]]], dtype=">u2")  # black, opaque and transparent
    png(tmp_path / "la.png", 2, 1, 16, 4, b"\0" + samples.tobytes())
    assert np.asarray(read_image(tmp_path / "la.png")).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = 0, 255, 51  # black: gone, full, a fifth
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    Image.fromarray(pixels).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    Image.fromarray(pixels).save(tmp_path / "rgba.tif")
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "la.png")
    for name in ("rgba.png", "rgba.webp", "rgba.tif", "la.png"):
        assert np.asarray(read_image(tmp_path / name)).tolist() == [[[255] * 3, [0] * 3, [204] * 3]], name


def test_palettes_and_transparent_colours(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=1)
    assert np.asarray(read_image(tmp_path / "plain.png")).tolist() == [[list(RED), list(BLUE)]]
    assert np.asarray(read_image(tmp_path / "clear.png")).tolist() == [[list(RED), [255, 255, 255]]]
    quarters().save(tmp_path / "rgb.png", transparency=GREY)
    image = read_image(tmp_path / "rgb.png")
    assert image.getpixel((W - 1, H - 1)) == (255, 255, 255)
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("L", "grey.png", 0), ("L", "grey.jpg", 6), ("1", "bits.png", 0), ("CMYK", "print.jpg", 8),
     ("CMYK", "print.tif", 0), ("YCbCr", "video.jpg", 8), ("RGB", "plain.bmp", 0), ("RGB", "plain.tif", 0)],
)  # fmt: skip
def test_other_modes(tmp_path, mode, name, tolerance):
    image = quarters(64, 48).convert(mode)
    image.save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.mode == "RGB"
    difference = np.abs(np.asarray(read).astype(int) - np.asarray(image.convert("RGB")))
    assert difference.mean() <= tolerance


def test_the_file_is_closed(tmp_path):
    quarters().save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    (tmp_path / "image.png").unlink()
    assert image.getpixel((0, 0)) == RED


def truncated(path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path.with_suffix(suffix), lossless=True)
    data = path.with_suffix(suffix).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


BAD_IMAGES = {
    "missing": (lambda path: None, "no such image file"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "empty"),
    "text": (lambda path: path.write_text("<svg></svg>"), "not an image"),
    "truncated JPEG": (lambda path: truncated(path, ".jpg"), "damaged or truncated"),
    "truncated PNG": (lambda path: truncated(path, ".png"), "damaged or truncated"),
    "truncated WebP": (lambda path: truncated(path, ".webp"), "damaged or truncated|not an image"),
    "header alone": (
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 9),
        "damaged or truncated|not an image",
    ),
    "float": (lambda path: Image.new("F", (4, 4), 0.5).save(path, "TIFF"), "mode F"),
    "32-bit grey": (lambda path: Image.fromarray(np.full((4, 4), 70000, np.int32)).save(path, "TIFF"), "70000"),
    "negative grey": (lambda path: Image.fromarray(np.full((4, 4), -1, np.int32)).save(path, "TIFF"), "-1"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_named(tmp_path, case):
    make, message = BAD_IMAGES[case]
    path = tmp_path / "the-image.bin"
    make(path)
    with pytest.raises(UserError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_a_picture_bomb_is_named(tmp_path, monkeypatch):
    quarters(64, 48).save(tmp_path / "huge.png")
    monkeypatch.setenv(PIXELS_VARIABLE, "1000")
    with pytest.raises(UserError, match=r"huge\.png: 64 × 48 pixels, expected at most 1000 in all"):
        read_image(tmp_path / "huge.png")
    with pytest.raises(UserError, match="image bytes: 64 × 48 pixels, expected at most 1000 in all"):
        to_picture((tmp_path / "huge.png").read_bytes())
    monkeypatch.setenv(PIXELS_VARIABLE, "3072")
    assert read_image(tmp_path / "huge.png").size == (64, 48), "a limit that can be raised"
    monkeypatch.setenv(PIXELS_VARIABLE, "many")
    with pytest.raises(UserError, match=f"{PIXELS_VARIABLE}: found 'many', expected a whole number"):
        read_image(tmp_path / "huge.png")


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    quarters().save(tmp_path / "good.png")
    for name, words in {
        "pipe.jpg": "is a pipe or a device",
        "zero.jpg": "is a pipe or a device",
        "loop.jpg": "a link that leads back to itself",
        "lost.jpg": "is a link to nothing",
        "folder.jpg": "is a folder",
    }.items():
        with pytest.raises(UserError, match=f"{name}: .*{words}"):
            read_image(tmp_path / name)
    assert tmp_path / "good.png" in find_images([tmp_path]), "and none of them ends the rest"
    assert tmp_path / "loop.jpg" in find_images([tmp_path / "loop.jpg"]), "named outright: reading it says why"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_locked_image_is_named(tmp_path):
    quarters().save(tmp_path / "locked.png")
    (tmp_path / "locked.png").chmod(0)
    with pytest.raises(UserError, match=r"locked\.png: no permission"):
        read_image(tmp_path / "locked.png")


@pytest.fixture
def album(tmp_path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/er/c.webp", "deep/d.tiff", ".cache/e.png",
                 "deep/f[1].bmp", "empty/readme.md"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["."], ["a.png", "b.JPG", "deep/d.tiff", "deep/er/c.webp", "deep/f[1].bmp"]),
        (["deep"], ["deep/d.tiff", "deep/er/c.webp", "deep/f[1].bmp"]),
        (["b.JPG", "a.png", "b.JPG"], ["b.JPG", "a.png"]),
        (["*"], ["a.png", "b.JPG", "deep/d.tiff", "deep/er/c.webp", "deep/f[1].bmp"]),
        (["*.png"], ["a.png"]),
        (["**/*.webp"], ["deep/er/c.webp"]),
        (["a.*", "deep/er"], ["a.png", "deep/er/c.webp"]),
        (["deep/f[1].bmp"], ["deep/f[1].bmp"]),
        (["notes.txt"], ["notes.txt"]),
    ],
)
def test_find_images(album, monkeypatch, inputs, expected):
    assert find_images([album / entry for entry in inputs]) == [album / name for name in expected]
    monkeypatch.chdir(album)
    assert find_images(inputs) == [Path(name) for name in expected]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.png", "no such file or folder"),
        ("*.gif", "no image file matches"),
        ("n*.txt", "no image file matches"),
    ],
)
def test_inputs_without_images_are_named(album, entry, message):
    with pytest.raises(UserError, match=message) as error:
        find_images([album / "a.png", album / entry])
    assert str(album / entry) in str(error.value)


def test_a_folder_without_images_may_lie_among_others(album):
    """As `photos/*` of a shell has it; alone it is a mistake."""
    assert find_images([album / "empty", album / "a.png"]) == [album / "a.png"]
    with pytest.raises(UserError, match=r"empty: the folder holds no image"):
        find_images([album / "empty", album / "empty"])


def test_no_input_at_all():
    with pytest.raises(UserError, match="no input"):
        find_images([])
