"""CVAT's XML: every kind of shape, groups, tracks of films, subsets as splits."""

from pathlib import Path

import numpy as np
import pytest
from format_samples import SQUARE, H, W, draw, mask_of, overlap, square_mask

from mask_frozen_detr.data.load import load_data, load_split
from mask_frozen_detr.errors import UserError

POINTS = ";".join(f"{x},{y}" for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True))
META = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>"
FILM = f"<meta><task><original_size><width>{W}</width><height>{H}</height></original_size></task></meta>"


def write(folder: Path, body: str, meta: str = META) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{body}</annotations>'
    )
    return folder


def picture(body: str, name: str = "a.png", extra: str = "") -> str:
    return f'<image id="0" name="{name}" width="{W}" height="{H}" {extra}>{body}</image>'


def test_shapes_of_every_kind(tmp_path):
    draw(tmp_path / "images" / "a.png")
    runs = "1, 3, 2, 4, 2"  # rows of a piece 4 × 3: .### / ..## / ##..
    write(
        tmp_path,
        picture(
            f'<polygon label="cat" points="{POINTS}" z_order="0"><attribute name="a">1</attribute></polygon>'
            '<box label="dog" xtl="2" ytl="3" xbr="12" ybr="18.5" z_order="0"/>'
            '<box label="dog" xtl="10" ytl="12" xbr="18" ybr="18" rotation="90.0"/>'
            '<ellipse label="dog" cx="20" cy="15" rx="9" ry="5"/>'
            f'<mask label="cat" rle="{runs}" left="30" top="20" width="4" height="3"/>'
            '<polyline label="dog" points="1,1;2,2"/><tag label="dog"/>'
        ),
    )
    data = load_data(tmp_path).train
    (record,) = data.images
    polygon, box, turned, ellipse, painted = record.annotations
    assert data.categories == {1: "dog", 2: "cat"}
    assert [data.categories[a.category_id] for a in record.annotations] == ["cat", "dog", "dog", "dog", "cat"]
    assert (mask_of(polygon, record) == square_mask()).all()
    assert (box.segmentation, box.bbox) == (None, (2, 3, 10, 15.5))
    assert turned.bbox == pytest.approx((11, 11, 6, 8))
    y, x = np.mgrid[:H, :W] + 0.5
    assert overlap(mask_of(ellipse, record), ((x - 20) / 9) ** 2 + ((y - 15) / 5) ** 2 <= 1) > 0.95
    expected = np.zeros((H, W), bool)
    expected[20:23, 30:34] = [[0, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]]
    assert (mask_of(painted, record) == expected).all()
    assert "CVAT, annotations.xml: 1 images" in data.summary()
    assert "note: 1 × shape that outlines no object" in data.summary()
    assert "note: 1 × turned box" in data.summary()


def test_shapes_of_one_group_are_one_object(tmp_path):
    draw(tmp_path / "a.png")
    other = POINTS.replace("15", "16")
    grouped = "".join(f'<polygon label="cat" group_id="{group}" points="{POINTS}"/>' for group in (1, 1, 2, 0, 0))
    mixed = (
        f'<polygon label="dog" group_id="3" points="{other}"/>'
        '<mask label="dog" group_id="3" rle="0, 4" left="36" top="26" width="2" height="2"/>'
    )
    (record,) = load_data(write(tmp_path, picture(grouped + mixed))).train.images
    assert [len(a.segmentation or ()) for a in record.annotations] == [2, 1, 1, 1, 2]
    assert mask_of(record.annotations[4], record).sum() == 11 * 11 + 4


def test_tracks_are_read_frame_by_frame(tmp_path):
    draw(*(tmp_path / "images" / f"frame_{number:06d}.PNG" for number in range(3)))
    track = (
        '<track id="0" label="cat">'
        + "".join(
            f'<box frame="{number}" outside="{int(number == 2)}" keyframe="1" xtl="{number}" ytl="1" xbr="9" ybr="9"/>'
            for number in (0, 1, 2, 3)
        )
        + f'</track><track id="1" label="dog"><polygon frame="1" outside="0" points="{POINTS}"/></track>'
    )
    data = load_data(write(tmp_path, track, FILM)).train
    assert [(record.path.name, len(record.annotations)) for record in data.images] == [
        ("frame_000000.PNG", 1),
        ("frame_000001.PNG", 2),
        ("frame_000002.PNG", 0),
    ]
    assert data.left_out() == {"image file is missing": 1}


def test_subsets_are_splits(tmp_path):
    draw(tmp_path / "images" / "Train" / "a.png", tmp_path / "images" / "Validation" / "a.png")
    shape = f'<polygon label="cat" points="{POINTS}"/>'
    body = picture(shape, extra='subset="Train"') + picture(shape * 2, extra='subset="Validation"')
    data = load_data(write(tmp_path, body))
    assert data.val is not None
    assert [len(split.images[0].annotations) for split in (data.train, data.val)] == [1, 2]
    assert [split.images[0].path.parent.name for split in (data.train, data.val)] == ["Train", "Validation"]


BROKEN = {
    "odd points": ('<polygon label="cat" points="1,2;3"/>', "points are not x,y;x,y"),
    "text": ('<polygon label="cat" points="1,2;3,x;4,5"/>', "coordinates are no finite numbers: 'x'"),
    "no points": ('<polygon label="cat"/>', "points are not x,y;x,y"),
    "no label": (f'<polygon points="{POINTS}"/>', "shape without a label"),
    "box of text": ('<box label="cat" xtl="a" ytl="0" xbr="3" ybr="4"/>', "coordinates are no finite numbers: 'a'"),
    "box outside": ('<box label="cat" xtl="50" ytl="0" xbr="60" ybr="4"/>', "bbox lies outside the image"),
    "runs too short": (
        '<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>',
        "mask's run lengths do not add up: 3, expected 4",
    ),
    "no runs": ('<mask label="cat" left="0" top="0" width="2" height="2"/>', "mask is no run lengths"),
    "mask outside": (
        '<mask label="cat" rle="0, 4" left="39" top="0" width="2" height="2"/>',
        "mask reaches out of the picture: 2 × 2 at 39, 0",
    ),
    "mask nowhere": ('<mask label="cat" rle="0, 4" left="x" top="0" width="2" height="2"/>', "mask without a place"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_shapes_are_skipped_and_named(tmp_path, case):
    shape, why = BROKEN[case]
    draw(tmp_path / "a.png")
    data = load_split(write(tmp_path, picture(f'<polygon label="cat" points="{POINTS}"/>{shape}')), "train")
    (skipped,) = data.skipped
    assert skipped.why.startswith(why)
    assert skipped.where.startswith("annotations.xml, a.png, ")
    assert len(data.images[0].annotations) == 1


def test_files_that_are_no_xml_or_of_others(tmp_path):
    file = write(tmp_path, picture("")) / "annotations.xml"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(UserError, match=r"annotations\.xml: cannot be read as XML"):
        load_data(file)
    file.write_text("<annotation><object/></annotation>")
    with pytest.raises(UserError, match="no data of a known format"):
        load_data(tmp_path)
