"""Reading COCO-format data and naming what is broken in it.

Not in the paper. A broken structure is an error; a broken annotation is skipped and recorded, training goes on.
"""

import gc
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mask_frozen_detr.data.images import PIXELS_VARIABLE, pixel_limit
from mask_frozen_detr.data.picture_paths import find_pictures
from mask_frozen_detr.data.splits import describe_incomplete, find_splits, image_folder_of, search_splits
from mask_frozen_detr.data.validation import Annotation, Broken, check_annotation, whole
from mask_frozen_detr.errors import UserError, printable, safe

__all__ = [
    "Annotation",
    "CocoData",
    "ImageRecord",
    "Skipped",
    "check_size",
    "find_splits",
    "load_split",
    "read_coco",
]


Orientation = Literal["auto", "apply", "ignore"]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file and what is in it. width, height: pixels, as the annotation file says (see `check_size`)."""

    id: int
    path: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    orientation: Orientation = "auto"  # what a tag in the file means for its annotations, see `orientation`


@dataclass(frozen=True, slots=True)
class Skipped:
    """An annotation or image that is not used."""

    where: str  # "instances_train2017.json, annotation 17 (image 5, dog.jpg)"
    why: str  # "kind of fault: what was found"


@dataclass
class CocoData:
    """One split. categories: id to name, by id. notes: what was mended or is odd but used, with counts."""

    annotation_file: Path
    images: list[ImageRecord]
    categories: dict[int, str]
    skipped: list[Skipped]
    notes: dict[str, int] = field(default_factory=dict)

    def left_out(self) -> Counter[str]:
        """What is not used, counted by kind of fault."""
        return Counter(skipped.why.split(":")[0] for skipped in self.skipped)

    def summary(self) -> str:
        """A line of counts, then one for each kind of fault and each note."""
        instances = sum(len(image.annotations) for image in self.images)
        crowds = sum(annotation.iscrowd for image in self.images for annotation in image.annotations)
        bare = sum(not image.annotations for image in self.images)
        lines = [
            f"{self.annotation_file.name}: {len(self.images)} images ({bare} without annotations), {instances} "
            f"instances ({crowds} of them crowds), {len(self.categories)} categories, {len(self.skipped)} skipped"
        ]
        first: dict[str, str] = {}
        kinds = self.left_out()
        for skipped in self.skipped:
            where = skipped.where.removeprefix(f"{self.annotation_file.name}, ")
            kind, _, found = skipped.why.partition(":")
            first.setdefault(kind, f"{where}:{found}" if found else where)
        lines += [f"  skipped {n} × {kind}, first: {first[kind]}" for kind, n in kinds.most_common()]
        lines += [f"  note: {n} × {note}" for note, n in self.notes.items()]
        return safe("\n".join(lines))


def check_size(record: ImageRecord, image: Image.Image) -> None:
    """Raises UserError where the opened image has another size than its annotations were made for."""
    if image.size == (record.width, record.height):
        return
    turned = image.size == (record.height, record.width)
    hint = "; was the file turned after it was annotated?" if turned else ""
    raise UserError(
        f"{record.path}: the file is {image.width} × {image.height} pixels, the annotation file says "
        f"{record.width} × {record.height} (image {record.id}){hint}"
    )


def load_split(
    data: str | Path, split: str, images: str | Path | None = None, orientation: Orientation = "auto"
) -> CocoData:
    """A split ("train", "val", "test") of a data folder, or an annotation file given directly.

    images: where its pictures are, if not where the layout says. orientation: what tags in pictures mean for their
    annotations, see `orientation`.
    Raises: UserError as `find_splits` and `read_coco` do, and for a split that the folder lacks.
    """
    path = Path(data).expanduser()
    if images is not None and not Path(images).expanduser().is_dir():
        raise UserError(f"images: found {images}, expected a folder with pictures")
    if path.is_file():
        return read_coco(path, Path(images or image_folder_of(path, split)).expanduser(), orientation)
    splits, incomplete = search_splits(path, (split,) if images else ())
    if split not in splits:
        found = ", ".join(f"{name} ({file})" for name, (file, _) in splits.items()) or "no split at all"
        raise UserError(f"{path}: no split '{split}'; found: {found}{describe_incomplete(incomplete)}")
    file, folder = splits[split]
    return read_coco(file, Path(images or folder).expanduser(), orientation)


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
    data = _load_json(file)
    categories = _categories(data["categories"], file)
    notes: Counter[str] = Counter()
    images = _images(data["images"], file, notes)
    paths = _image_paths(images, file, image_folder, notes, _stated_root(data, file))
    skipped: list[Skipped] = []
    kept: dict[int, list[Annotation]] = {image_id: [] for image_id in paths}
    lost: Counter[int] = Counter()  # annotations of missing images
    seen: set[int] = set()
    odd_ids = 0
    raws: list[Any] = data["annotations"]
    total = len(raws)
    raws.reverse()
    while raws:  # taken off the list, so that each is freed once it is read
        raw = raws.pop()
        try:
            image_id = _check_ids(raw, total - len(raws) - 1, images, categories)
            given = whole(raw.get("id"))
            if given is None or given <= 0 or given in seen:  # 0 reads as "no match" in COCO's evaluation
                odd_ids += 1
                given = 0
            seen.add(given)
            raw["id"] = given
            if image_id not in paths:
                lost[image_id] += 1
                continue
            _, width, height = images[image_id]
            kept[image_id].append(check_annotation(raw, width, height, notes))
        except Broken as reason:
            skipped.append(Skipped(_where(raw, total - len(raws) - 1, images, file), str(reason)))
    for image_id, (name, _, _) in images.items():
        if image_id not in paths:
            what = f"not in {image_folder}, {lost[image_id]} annotations dropped with it"
            skipped.append(Skipped(f"{file.name}, image {image_id} ({name})", f"image file is missing: {what}"))
    if odd_ids:
        notes["annotation id missing, used twice or no positive whole number; all are numbered anew"] += odd_ids
        number = 0
        for image_id, annotations in kept.items():
            kept[image_id] = [replace(a, id=number + place) for place, a in enumerate(annotations, 1)]
            number += len(annotations)
    records = [
        ImageRecord(image_id, path, *images[image_id][1:], tuple(kept.pop(image_id)), orientation)
        for image_id, path in paths.items()
    ]
    result = CocoData(file, records, categories, skipped, dict(notes))
    if total and not any(record.annotations for record in records):
        raise UserError(f"{file}: none of {total} annotations can be used\n{result.summary()}")
    return result


def _load_json(file: Path) -> dict[str, list]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot read the annotation file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not JSON ({error}), expected a COCO annotation file") from None
    try:
        data = json.loads(text)
    except MemoryError:
        raise UserError(f"{file}: not enough memory to read it, expected a smaller annotation file") from None
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) - 8 or error.msg.startswith("Unterminated string")
        found = "is empty" if not text.strip() else "ends too early, truncated?" if at_end else "is not JSON"
        raise UserError(f"{file}: {found} ({error}), expected a COCO annotation file") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{file}: is not JSON ({error}), expected a COCO annotation file") from None
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply, expected a COCO annotation file") from None
    if type(data) is not dict:
        results = " (COCO results, without their images?)" if type(data) is list else ""
        raise UserError(
            f"{file}: holds JSON of type {type(data).__name__}{results}, expected an object with 'images' …"
        )
    if file.stem.startswith("image_info"):
        data.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if key not in data:
            raise UserError(
                f"{file}: no key '{key}' (found: {', '.join(map(repr, data)) or 'none'}), expected a COCO "
                "instances file with 'images', 'annotations' and 'categories'"
            )
        if type(data[key]) is not list:
            raise UserError(f"{file}: '{key}' is a {type(data[key]).__name__}, expected a list")
    return data


def shown(value: Any) -> str:
    """A value of the file for a message: short, and nothing in it that a terminal would obey."""
    try:
        return printable(repr(value), 40)
    except ValueError:  # a number of too many digits
        return f"a {type(value).__name__}"


def _field(entry: Any, key: str, kind: type, where: str) -> Any:
    if type(entry) is not dict:
        raise UserError(f"{where}: is a {type(entry).__name__}, expected an object")
    if kind is int and (number := whole(entry.get(key))) is not None:
        return number
    if kind is int or type(entry.get(key)) is not kind:
        found = shown(entry[key]) if key in entry else "missing"
        raise UserError(f"{where}: '{key}' is {found}, expected {'a number' if kind is int else 'text'}")
    return entry[key]


def _categories(entries: list, file: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for index, entry in enumerate(entries):
        where = f"{file}, entry {index} of 'categories'"
        category_id, name = _field(entry, "id", int, where), _field(entry, "name", str, where)
        if category_id in categories:
            raise UserError(f"{where}: id {category_id} is taken by '{categories[category_id]}', found '{name}'")
        categories[category_id] = name
    if not categories:
        raise UserError(f"{file}: 'categories' is empty, expected at least one")
    return dict(sorted(categories.items()))


def _images(entries: list, file: Path, notes: Counter[str]) -> dict[int, tuple[str, int, int]]:
    """Image id to file name, width, height."""
    images: dict[int, tuple[str, int, int]] = {}
    for index, entry in enumerate(entries):
        where = f"{file}, entry {index} of 'images'"
        image_id, name = _field(entry, "id", int, where), _field(entry, "file_name", str, where)
        width, height = _field(entry, "width", int, where), _field(entry, "height", int, where)
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


def _check_ids(raw: Any, index: int, images: dict, categories: dict) -> int:
    """The image's id. Raises Broken."""
    if type(raw) is not dict:
        raise Broken(f"annotation is not an object: entry {index} is a {type(raw).__name__}")
    for key in ("image_id", "category_id"):
        number = whole(raw.get(key))
        if number is None:
            raise Broken(f"{key} is missing or no whole number: {shown(raw.get(key))}")
        raw[key] = number
    if raw["image_id"] not in images:
        raise Broken(f"unknown image id: {raw['image_id']}")
    if raw["category_id"] not in categories:
        raise Broken(f"unknown category id: {raw['category_id']}, the file has {list(categories)[:90]}")
    return raw["image_id"]


def _where(raw: Any, index: int, images: dict, file: Path) -> str:
    if type(raw) is not dict or type(raw.get("id")) is not int:
        return f"{file.name}, entry {index} of 'annotations'"
    image = raw.get("image_id")
    known = f", {images[image][0]}" if type(image) is int and image in images else ""
    return f"{file.name}, annotation {raw['id']} (image {image}{known})"
