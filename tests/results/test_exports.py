"""What `predict` writes for other tools: each format is read back, by its reader where there is one, and compared."""

import json

import numpy as np
import pytest
from folders import contents
from format_samples import draw, mask_of, overlap
from PIL import Image, ImageDraw

from mask_frozen_detr import UserError, load_data
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.results.exports.found import Object, Picture
from mask_frozen_detr.results.exports.write import WRITERS, check_exports, write_exports
from mask_frozen_detr.results.own_folder import LIST_FILE
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle

W, H = 80, 60
NAMES = {0: "person", 1: "ring, gold", 2: "Hund"}


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


MASKS = {
    "a.jpg": [(0, disc(20, 20, 12)), (1, disc(55, 35, 20) & ~disc(55, 35, 9))],
    "sub/a.jpg": [(2, disc(15, 15, 10) | disc(60, 40, 12))],
    "nothing.png": [],
}


@pytest.fixture
def pictures(tmp_path) -> list[Picture]:
    draw(*(tmp_path / "photos" / name for name in MASKS), size=(W, H))
    made = []
    for number, (name, masks) in enumerate(MASKS.items()):
        objects = []
        for category, mask in masks:
            crop = Crop.of_mask(mask)
            h, w = crop.values.shape
            box = (float(crop.x), float(crop.y), float(w), float(h))
            objects.append(Object(category, NAMES[category], 0.5 + 0.1 * category, box, crop_to_rle(crop, H, W)))
        made.append(Picture(tmp_path / "photos" / name, f"p{number}", W, H, tuple(objects)))
    return made


def masks_of(data: CocoData) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Picture's file (links followed) to class names and masks."""
    return {
        str(record.path.resolve()): [(data.categories[a.category_id], mask_of(a, record)) for a in record.annotations]
        for record in data.images
    }


@pytest.mark.parametrize(("name", "least"), [("yolo", 0.97), ("labelme", 0.97), ("panoptic", 1.0)])
def test_read_back_by_the_formats_reader(name, least, pictures, tmp_path):
    (folder,) = write_exports(tmp_path / "out", [name], pictures, NAMES)
    data = load_data(folder).train
    assert not data.skipped
    found = masks_of(data)
    assert set(found) == {str(picture.path.resolve()) for picture in pictures}
    for picture, masks in zip(pictures, MASKS.values(), strict=True):
        mates = found[str(picture.path.resolve())]
        assert [label for label, _ in mates] == [NAMES[category] for category, _ in masks]
        for (_, mate), (_, mask) in zip(mates, masks, strict=True):
            assert overlap(mate, mask) >= least


def test_masks(pictures, tmp_path):
    (folder,) = write_exports(tmp_path, ["masks"], pictures, NAMES)
    listed = json.loads((folder / "masks.json").read_text())
    assert [entry["class"] for entry in listed] == ["person", "ring, gold", "Hund"]
    for entry, (_, mask) in zip(listed, [pair for masks in MASKS.values() for pair in masks], strict=True):
        assert (np.asarray(Image.open(folder / entry["file"])) == mask).all()
        assert (folder / entry["image"]).resolve().is_file()


def fill(rings: list, scale: float = 1.0) -> np.ndarray:
    """Rings filled by Pillow, the second and later ones holes of the first."""
    image = Image.new("L", (8 * W, 8 * H))
    for number, ring in enumerate(rings):
        points = [(8 * scale * x - 0.5, 8 * scale * y - 0.5) for x, y in ring]
        ImageDraw.Draw(image).polygon(points, fill=0 if number else 1)
    return np.asarray(image).reshape(H, 8, W, 8).mean((1, 3)) >= 0.5


def test_geojson(pictures, tmp_path):
    (folder,) = write_exports(tmp_path, ["geojson"], pictures, NAMES)
    for picture, masks in zip(pictures, MASKS.values(), strict=True):
        content = json.loads((folder / f"{picture.name}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        for feature, (category, mask) in zip(content["features"], masks, strict=True):
            geometry = feature["geometry"]
            several = geometry["type"] == "MultiPolygon"
            polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
            assert all(ring[0] == ring[-1] for rings in polygons for ring in rings), "rings are closed"
            assert overlap(np.any([fill(rings) for rings in polygons], axis=0), mask) > 0.96
            assert feature["properties"]["classification"]["name"] == NAMES[category]
            assert len(polygons[0]) == 1 + (category == 1), "the ring has a hole"


def test_label_studio(pictures, tmp_path):
    (folder,) = write_exports(tmp_path, ["label-studio"], pictures, NAMES)
    tasks = json.loads((folder / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks][1] == "/data/local-files/?d=photos/sub/a.jpg"
    for task, masks in zip(tasks, MASKS.values(), strict=True):
        results = task["predictions"][0]["result"]
        for result, (category, mask) in zip(results, masks, strict=True):
            assert (result["original_width"], result["original_height"]) == (W, H)
            assert result["value"]["polygonlabels"] == [NAMES[category]]
            points = [(x / 100 * W, y / 100 * H) for x, y in result["value"]["points"]]
            if category == 0:  # the others have seams, which Pillow draws
                assert overlap(fill([points]), mask) > 0.96
    assert '<Label value="ring, gold"/>' in (folder / "label_config.xml").read_text()


def test_written_again(pictures, tmp_path):
    """The same again changes nothing; what is no more found goes, and what others put there stays."""
    write_exports(tmp_path / "out", WRITERS, pictures, NAMES)
    before = contents(tmp_path / "out")
    write_exports(tmp_path / "out", WRITERS, pictures, NAMES)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/yolo/labels/mine.txt").write_text("0 0.5 0.5 0.1 0.1")
    write_exports(tmp_path / "out", ["yolo"], pictures[:1], NAMES)
    assert sorted(contents(tmp_path / "out/yolo")) == [
        LIST_FILE,
        "data.yaml",
        "images/p0.jpg",
        "labels/mine.txt",
        "labels/p0.txt",
    ]


@pytest.mark.parametrize("case", ["edited", "foreign folder", "foreign file", "a file", "damaged list"])
def test_nothing_foreign_is_replaced(case, pictures, tmp_path):
    folder = tmp_path / "yolo"
    if case == "a file":
        folder.write_text("mine")
    elif case == "foreign folder":
        folder.mkdir()
        (folder / "data.yaml").write_text("mine")
    else:
        write_exports(tmp_path, ["yolo"], pictures[:1], NAMES)
        if case == "edited":
            (folder / "labels/p0.txt").write_text("mine")
        elif case == "foreign file":
            (folder / "labels/p1.txt").write_text("mine")
        else:
            (folder / LIST_FILE).write_text("{}")
    before = contents(tmp_path)
    for refuse in (check_exports, write_exports):  # before anything is computed, where that can be told
        more = () if refuse is check_exports else (pictures, NAMES)
        if (case, refuse) != ("foreign file", check_exports):
            with pytest.raises(UserError, match=r"so\s+it\s+stays as it is|cannot be told from other"):
                refuse(tmp_path, ["yolo"], *more)
    assert contents(tmp_path) == before


def test_an_unknown_format(tmp_path):
    with pytest.raises(UserError, match="format: found 'csv', expected 'coco', 'yolo', 'labelme'"):
        check_exports(tmp_path, ["csv"])
    assert check_exports(tmp_path, ["yolo", "coco", "yolo"]) == ["yolo"]
