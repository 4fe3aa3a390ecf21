"""Reading COCO-format data and naming what is broken in it.

Not in the paper. A broken structure is an error; a broken annotation is skipped and recorded, training goes on.
"""

import gc
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, ImageRecord, Orientation, Skipped
from mask_frozen_detr.data.formats.coco_entries import Entries, check_entries, shown
from mask_frozen_detr.data.formats.coco_json import check_key, scan_coco_json
from mask_frozen_detr.data.formats.coco_layout import (
    LAYOUTS,
    describe_incomplete,
    image_folder_of,
    search_splits,
)
from mask_frozen_detr.data.formats.layout import SPLITS, Layout, Split
from mask_frozen_detr.data.images import PIXELS_VARIABLE, pixel_limit
from mask_frozen_detr.data.picture_paths import find_pictures
from mask_frozen_detr.data.validation import whole
from mask_frozen_detr.errors import UserError, printable

FORMAT = "COCO"
NO_CLASS = "(no class)"  # what objects are called in a file without classes
KINDS = {int: "a number", str: "text", list: "a list"}
EXPECTED = LAYOUTS


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """The splits of a folder in one of COCO's layouts, or the one data set of an annotation file.

    elsewhere: splits whose pictures are named apart, so that they need no folder of their own.
    """
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        return Layout({split: _split(path, image_folder_of(path, split)) for split in SPLITS}, single=True)
    splits, incomplete = search_splits(path, elsewhere)
    if not splits and not incomplete:
        return None
    lost = {split: describe_incomplete(files) for split, files in incomplete.items()}
    return Layout({split: _split(file, folder) for split, (file, folder) in splits.items()}, lost)


def _split(file: Path, folder: Path) -> Split:
    return Split(file, lambda images, orientation: read_coco(file, images or folder, orientation))


def read_coco(annotation_file: Path, image_folder: Path, orientation: Orientation = "auto") -> CocoData:
    """Read and check a COCO instances file; see `validation` for what makes an annotation broken.

    Image files are looked for by name in listings of their folders, not opened. Of an `image_info_…` file (COCO's
    test sets) the annotations may be missing.

    Raises: UserError naming the file and the entry: not JSON, a key missing or of the wrong type, contradicting
        ids, no image, no image file, annotations of which none can be used.
    """
    annotation_file, image_folder = Path(annotation_file), Path(image_folder)
    collecting = gc.isenabled()
    gc.disable()  # nothing here is garbage, and looking for it doubles the time
    try:
        return _read(annotation_file, image_folder, orientation)
    finally:
        if collecting:
            gc.enable()


def _read(file: Path, image_folder: Path, orientation: Orientation) -> CocoData:
    entries = Entries()
    data, again = scan_coco_json(file, entries.begin)
    notes: Counter[str] = Counter()
    if entries.classless:  # as tools write boxes that nobody has named yet
        categories = read_categories(data["categories"], file) if data.get("categories") else {}
        free = max(categories, default=0) + 1
        categories[free] = NO_CLASS
        entries.give_class(free)
        notes["annotation without a class, as all are"] += len(entries)
    else:
        check_key(file, data, "categories")
        categories = read_categories(data["categories"], file)
    images = read_images(data["images"], file, notes)
    paths = _image_paths(images, file, image_folder, notes, _stated_root(data, file))
    del data
    found = check_entries(entries, again, file, images, categories, list(paths), notes)
    skipped = found.skipped
    for image_id, (name, _, _) in images.items():
        if image_id not in paths:
            what = f"not in {image_folder}, {found.lost[image_id]} annotations dropped with it"
            skipped.append(Skipped(f"{file.name}, image {image_id} ({name})", f"{MISSING_PICTURE}: {what}"))
    if found.odd_ids:
        notes["annotation id missing, used twice or no positive whole number; all are numbered anew"] += found.odd_ids
    records = [
        ImageRecord(image_id, path, *images[image_id][1:], group, orientation)
        for (image_id, path), group in zip(paths.items(), found.groups, strict=True)
    ]
    result = CocoData(file, records, categories, skipped, dict(notes), FORMAT)
    if len(entries) and not any(record.annotations for record in records):
        raise UserError(f"{file}: none of {len(entries)} annotations can be used\n{result.summary()}")
    return result


def take_field(entry: Any, key: str, kind: type, where: str) -> Any:
    """The value of a key, of that type. Raises UserError where it is missing or another."""
    if type(entry) is not dict:
        raise UserError(f"{where}: is a {type(entry).__name__}, expected an object")
    if kind is int and (number := whole(entry.get(key))) is not None:
        return number
    if kind is int or type(entry.get(key)) is not kind:
        found = shown(entry[key]) if key in entry else "missing"
        raise UserError(f"{where}: '{key}' is {found}, expected {KINDS[kind]}")
    return entry[key]


def read_categories(entries: list, file: Path) -> dict[int, str]:
    """Category id to name, by id. Raises UserError where one is broken or there is none."""
    categories: dict[int, str] = {}
    for index, entry in enumerate(entries):
        where = f"{file}, entry {index} of 'categories'"
        category_id, name = take_field(entry, "id", int, where), take_field(entry, "name", str, where)
        if category_id in categories:
            raise UserError(f"{where}: id {category_id} is taken by '{categories[category_id]}', found '{name}'")
        categories[category_id] = name
    if not categories:
        raise UserError(f"{file}: 'categories' is empty, expected at least one")
    return dict(sorted(categories.items()))


def read_images(entries: list, file: Path, notes: Counter[str]) -> dict[int, tuple[str, int, int]]:
    """Image id to file name, width, height."""
    images: dict[int, tuple[str, int, int]] = {}
    for index, entry in enumerate(entries):
        where = f"{file}, entry {index} of 'images'"
        image_id, name = take_field(entry, "id", int, where), take_field(entry, "file_name", str, where)
        width, height = take_field(entry, "width", int, where), take_field(entry, "height", int, where)
        if width <= 0 or height <= 0:
            raise UserError(f"{where} ({name}): is {width} × {height} pixels, expected a positive width and height")
        if width * height > pixel_limit():
            raise UserError(
                f"{where} ({printable(name)}): is {shown(width)} × {shown(height)} pixels, expected at most "
                f"{pixel_limit()} in all; {PIXELS_VARIABLE} raises the limit"
            )
        if image_id not in images:
            images[image_id] = name, width, height
        elif images[image_id] == (name, width, height):
            notes["image listed twice, used once"] += 1
        else:
            raise UserError(f"{where}: id {image_id} is taken by {images[image_id]}, found {(name, width, height)}")
    if not images:
        raise UserError(f"{file}: 'images' is empty, expected at least one image")
    return images


def _stated_root(data: dict[str, Any], file: Path) -> Path | None:
    """Where the file itself says that its pictures lie, as seen from it: those that `predict` writes do."""
    info = data.get("info")
    root = info.get("image_root") if type(info) is dict else None
    return file.parent / root if type(root) is str and root else None


def _image_paths(
    images: dict[int, tuple[str, int, int]], file: Path, folder: Path, notes: Counter[str], root: Path | None
) -> dict[int, Path]:
    """Image id to path, of those that exist. File names may start at `root`, at the folder or at one above it."""
    bases = [base for base in (root, folder, folder.parent, folder.parent.parent) if base is not None]
    paths = find_pictures({image_id: name for image_id, (name, _, _) in images.items()}, bases, notes)
    if not paths:
        name = next(iter(images.values()))[0]
        raise UserError(
            f"{file}: none of its {len(images)} image files is in {folder} (the first would be {name}); "
            "expected them there, by the names in the annotation file"
        )
    return paths
