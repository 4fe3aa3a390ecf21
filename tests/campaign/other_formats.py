"""Data of strangers in every other format that is read: an error or counts, whatever its files hold."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from campaign.bench import Bench, Try
from campaign.commands import call, manners, run
from campaign.damage import damage
from campaign.hostile import ESCAPES, NUMBERS, TEXTS, mutate, text_of
from campaign.odd_pictures import put

Picture = dict[str, Any]  # of COCO's "images", with "objects": name and x, y, w, h


def pictures_of(data: Path) -> list[Picture]:
    document = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    return [
        {
            **image,
            "objects": [
                (names[one["category_id"]], [round(value) for value in one["bbox"]])
                for one in document["annotations"]
                if one["image_id"] == image["id"]
            ],
        }
        for image in document["images"]
    ]


def _copy(data: Path, folder: Path, pictures: list[Picture]) -> None:
    folder.mkdir(parents=True)
    for picture in pictures:
        shutil.copy(data / "val2017" / picture["file_name"], folder)


def write_yolo(data: Path, folder: Path, pictures: list[Picture]) -> None:
    _copy(data, folder / "images" / "train", pictures)
    (folder / "labels" / "train").mkdir(parents=True)
    names = sorted({name for picture in pictures for name, _ in picture["objects"]})
    for picture in pictures:
        lines = []
        for name, (x, y, w, h) in picture["objects"]:
            corners = [(x, y), (x + w, y), (x + w, y + h)]
            points = " ".join(f"{a / picture['width']:.6f} {b / picture['height']:.6f}" for a, b in corners)
            lines.append(f"{names.index(name)} {points}")
        label = folder / "labels" / "train" / picture["file_name"]
        label.with_suffix(".txt").write_text("\n".join(lines))
    listed = "".join(f"  {number}: {name}\n" for number, name in enumerate(names))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{listed}")


def write_labelme(data: Path, folder: Path, pictures: list[Picture]) -> None:
    _copy(data, folder, pictures)
    for picture in pictures:
        shapes: list[dict[str, Any]] = []
        for place, (name, (x, y, w, h)) in enumerate(picture["objects"]):
            kind = ("polygon", "rectangle", "circle")[place % 3]
            points = [[x, y], [x + w, y + h]] if kind != "polygon" else [[x, y], [x + w, y], [x + w, y + h]]
            shapes.append(
                {"label": name, "points": points, "group_id": place, "shape_type": kind, "flags": {}, "mask": None}
            )
        content = {
            "version": "5.5.0",
            "shapes": shapes,
            "imagePath": picture["file_name"],
            "imageData": None,
            "imageHeight": picture["height"],
            "imageWidth": picture["width"],
        }
        (folder / picture["file_name"]).with_suffix(".json").write_text(json.dumps(content))


def write_voc(data: Path, folder: Path, pictures: list[Picture]) -> None:
    _copy(data, folder / "JPEGImages", pictures)
    for name in ("Annotations", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for picture in pictures:
        stem, labels = Path(picture["file_name"]).stem, np.zeros((picture["height"], picture["width"]), np.uint8)
        entries = []
        for number, (name, (x, y, w, h)) in enumerate(picture["objects"], 1):
            labels[y : y + h, x : x + w] = number
            corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            entries.append(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>")
        (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{''.join(entries)}</annotation>")
        Image.fromarray(labels).save(folder / "SegmentationObject" / f"{stem}.png")
    names = "\n".join(Path(picture["file_name"]).stem for picture in pictures)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(names)


def write_panoptic(data: Path, folder: Path, pictures: list[Picture]) -> None:
    _copy(data, folder / "train2017", pictures)
    (folder / "panoptic_train2017").mkdir()
    names = sorted({name for picture in pictures for name, _ in picture["objects"]})
    annotations = []
    for picture in pictures:
        colours, segments = np.zeros((picture["height"], picture["width"], 3), np.uint8), []
        for number, (name, (x, y, w, h)) in enumerate(picture["objects"], 1):
            colours[y : y + h, x : x + w, 0] = number
            segments.append({"id": number, "category_id": names.index(name) + 1, "bbox": [x, y, w, h], "iscrowd": 0})
        file = f"{Path(picture['file_name']).stem}.png"
        Image.fromarray(colours).save(folder / "panoptic_train2017" / file)
        annotations.append({"image_id": picture["id"], "file_name": file, "segments_info": segments})
    content = {
        "images": [{key: picture[key] for key in ("id", "file_name", "width", "height")} for picture in pictures],
        "categories": [{"id": number, "name": name, "isthing": 1} for number, name in enumerate(names, 1)],
        "annotations": annotations,
    }
    (folder / "panoptic_train2017.json").write_text(json.dumps(content))


def write_via(data: Path, folder: Path, pictures: list[Picture]) -> None:
    _copy(data, folder / "train", pictures)
    content = {}
    for picture in pictures:
        regions = []
        for place, (name, (x, y, w, h)) in enumerate(picture["objects"]):
            shapes: list[dict[str, Any]] = [
                {"name": "polygon", "all_points_x": [x, x + w, x], "all_points_y": [y, y, y + h]},
                {"name": "rect", "x": x, "y": y, "width": w, "height": h},
                {"name": "ellipse", "cx": x + w / 2, "cy": y + h / 2, "rx": w / 2, "ry": h / 2, "theta": 0.5},
            ]
            regions.append({"shape_attributes": shapes[place % 3], "region_attributes": {"class": name}})
        content[picture["file_name"]] = {"filename": picture["file_name"], "size": 1, "regions": regions}
    (folder / "train" / "via_region_data.json").write_text(json.dumps(content))


WRITERS: dict[str, Callable[[Path, Path, list[Picture]], None]] = {
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
    "panoptic": write_panoptic,
    "via": write_via,
}


def tried(bench: Bench, random: Random, folder: Path) -> Try:
    name = random.choice(list(WRITERS))
    data = folder / "data"
    WRITERS[name](bench.data, data, pictures_of(bench.data))
    what = [name]
    for _ in range(random.choice([1, 1, 3])):
        files = sorted(path for path in data.rglob("*") if path.is_file() and not path.is_symlink())
        # Of each kind of file with equal chance.
        suffix = random.choice(sorted({path.suffix for path in files}))
        what.append(_spoil(random.choice([path for path in files if path.suffix == suffix]), random))
    way = random.random()
    if way < 0.8:
        faults = manners(call(lambda: read_all(data), folder, 30))
    elif way < 0.9:
        faults = manners(run(["inspect", data, "--html", folder / "page.html"], folder))
    else:
        faults = manners(run(["evaluate", bench.run, data, "--split", "train", "--workers", "0"], folder))
    return Try(f"{'; '.join(what)}"[:400], faults)


def read_all(data: Path) -> int:
    """As the command line reads it."""
    from mask_frozen_detr.data.load import load_split
    from mask_frozen_detr.errors import UserError, safe

    try:
        print(safe(load_split(data, "train").summary()))
    except UserError as error:
        print(safe(f"mask-frozen-detr: {error}"))
        return 2
    return 0


def _spoil(path: Path, random: Random) -> str:
    how = random.random()
    if path.suffix in (".png", ".jpg") and how < 0.5:
        path.unlink()
        made, what = put(path, random)
        return f"{made.name}: {what}"
    if path.suffix in (".png", ".jpg") or how < 0.15:
        return damage(path, random)
    try:
        text = path.read_text()
        document = json.loads(text) if path.suffix == ".json" else None
    except (ValueError, RecursionError):  # damaged before, or nested too deep to be read
        return damage(path, random)
    if path.suffix == ".json":
        document, what = mutate(document, random)
        content, odd = text_of(document, random)
        path.write_bytes(content)
        return f"{path.name}: {what} {odd}"
    words = text.replace("<", " <").replace(">", "> ").split(" ") if path.suffix == ".xml" else text.split(" ")
    place = random.randrange(len(words))
    words[place] = random.choice([*ESCAPES, *TEXTS, *map(_plainly, NUMBERS), *BOMBS.get(path.suffix, ["\x00"])])
    path.write_text(" ".join(words), encoding="utf-8", errors="surrogatepass")
    return f"{path.name}: word {place} is {words[place][:40]!r}"


def _plainly(number: float) -> str:
    return "1" + "0" * 400 if number == 10**400 else str(number)


def _doubling(names: str, line: str) -> str:
    """Text whose every line doubles the one before it, for readers that write it out."""
    return "\n".join(line.format(name=name, before=before) for before, name in pairwise(names))


BOMBS = {
    ".yaml": [
        "\na: &a [x, x]\n" + _doubling("abcdefghijklmnopqrstuvwxyz", "{name}: &{name} [*{before}, *{before}]") + "\n",
        "\na: &a [x, x]\n"
        + _doubling("abcdefghijklmnopqrstuvwxyz", "{name}: &{name} [*{before}, *{before}]")
        + "\nnames: *z\n",
        "!!python/object/apply:os.system ['true']",
        "[" * 5000,
        "? [a]",
        "2001-99-99",
        "1:" * 5000 + "1",
    ],
    ".xml": [
        '<!DOCTYPE a [<!ENTITY a "xx">'
        + _doubling("abcdefghijklmnopqrstuvwxyz", '<!ENTITY {name} "&{before};&{before};">')
        + "]><annotation>&z;</annotation>",
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
        "<object>" * 20_000,
    ],
    ".txt": ["0 " + "0.5 " * 200_000, "0 nan nan nan nan", "1e400 0 0 1 1", "0 0 0 1e300 1", "../../../etc/passwd"],
}
