"""Orientation tags: whether annotations were drawn on a photo as it is stored, or as its EXIF tag turns it.

COCO's annotations refer to the pixels as stored. Labelling tools show photos upright, and export their upright sizes.
The size that the annotation file gives tells the two apart, unless both are the same: in squares, and for tags that
turn by 180° or mirror.
"""

from PIL import Image

from mask_frozen_detr.data.coco import ImageRecord, Orientation, check_size
from mask_frozen_detr.data.images import read_image, stored_orientation
from mask_frozen_detr.errors import UserError

UNDONE_BY = {  # tags that exchange width and height, and what takes back what they ask for
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOOKED_AT = 5000  # pictures whose tags are looked at for the note: a look takes some tenths of a millisecond


def open_picture(record: ImageRecord, orientation: Orientation = "auto") -> Image.Image:
    """The pixels that a record's annotations refer to, as 8-bit RGB of the record's size.

    auto: as the record's size says; where it does not tell, as stored. apply, ignore: as the tag says, or as stored.
    Raises UserError where the file cannot be read or has another size.
    """
    image = read_image(record.path, apply_exif=orientation == "apply")
    if orientation == "auto" and image.size == (record.height, record.width) != (record.width, record.height):
        image = read_image(record.path, apply_exif=True)
        tag, stored = stored_orientation(record.path)
        if stored == (record.width, record.height) and tag in UNDONE_BY:  # Pillow turns TIFF files by itself
            image = image.transpose(UNDONE_BY[tag])
    check_size(record, image)
    return image


def ambiguous(records: list[ImageRecord]) -> list[ImageRecord]:
    """Pictures with a tag that their size says nothing about, among the first so many."""
    found = []
    for record in records[:LOOKED_AT]:
        try:
            tag, (width, height) = stored_orientation(record.path)
        except UserError:
            continue  # reading it will say why
        if tag in (2, 3, 4) or (tag in (5, 6, 7, 8) and width == height):
            found.append(record)
    return found
