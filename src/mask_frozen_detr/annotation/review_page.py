"""The page of doubtful masks: one file that needs nothing else, each mask beside its bare picture."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from mask_frozen_detr.annotation.labelled_file import MADE_BY
from mask_frozen_detr.errors import printable
from mask_frozen_detr.results.exports.regions import Region

SIDE = 360  # of the longer side of a picture on the page, pixels
MARGIN = 0.35  # of the box's longer side, around it
SMALLEST = 48  # pixels of the original that are shown at least
MASK, BOX = (255, 64, 128), (255, 214, 0)
FILL = 110  # of 255: how much of its colour a mask's inside takes

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1d1d1f; background: #fff; }
h1 { font-size: 1.35rem; } p { max-width: 46rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.2rem;
  padding: 0; align-items: start; }
li { list-style: none; border: 1px solid #d8d8dc; border-radius: 6px; padding: .7rem; }
.pair { display: flex; gap: .4rem; align-items: flex-start; } .pair img { width: 50%; min-width: 0; }
.name { font-weight: 600; } .place { color: #5c5c62; font-size: 13px; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #f2f2f4; background: #1c1c1e; } li { border-color: #48484c; } .place { color: #a8a8ae; }
}
"""


@dataclass(frozen=True)
class Doubt:
    """A mask on the page: two JPEG files, what is in them, and where it is from."""

    bare: bytes
    drawn: bytes
    region: Region
    place: str


def show_doubt(image: Image.Image, region: Region, place: str) -> Doubt:
    """The surroundings of an object, bare and with its mask and box."""
    window = _window(region.box, image.size)
    scale = SIDE / max(window[2] - window[0], window[3] - window[1])
    size = (max(1, round((window[2] - window[0]) * scale)), max(1, round((window[3] - window[1]) * scale)))
    bare = image.crop(window).resize(size, Image.Resampling.LANCZOS)
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    for polygon in region.polygons:
        corners = [((x - window[0]) * scale, (y - window[1]) * scale) for x, y in polygon.tolist()]
        draw.polygon(corners, fill=(*MASK, FILL))
        draw.line([*corners, corners[0]], fill=(*MASK, 255), width=2)
    x, y, w, h = region.box
    left, top = (x - window[0]) * scale, (y - window[1]) * scale
    draw.rectangle((left, top, left + w * scale, top + h * scale), outline=(*BOX, 255), width=2)
    drawn = Image.alpha_composite(bare.convert("RGBA"), layer).convert("RGB")
    return Doubt(_jpeg(bare), _jpeg(drawn), region, place)


def render_page(doubts: Sequence[Doubt], file: str, masks: int) -> str:
    """HTML of all of them, in their order."""
    items = "\n".join(_item(number, doubt) for number, doubt in enumerate(doubts, 1))
    name = html.escape(printable(file))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{MADE_BY}">
<title>Doubtful masks of {name}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Doubtful masks of {name}</h1>
<p>The {len(doubts)} least certain of {masks} masks that were made from boxes, the worst first. Quality, 0 to 1,
is a guess of the IoU with the true mask.</p>
<ol>
{items}
</ol>
</body>
</html>
"""


def _item(number: int, doubt: Doubt) -> str:
    region, name = doubt.region, html.escape(printable(doubt.region.name, 80))
    quality = f"quality {region.score:.2f}" if region.polygons and region.score is not None else "no mask found"
    return (
        f'<li><div class="pair">{_picture(doubt.bare, f"{name}, the picture")}'
        f"{_picture(doubt.drawn, f'{name}, its mask and box')}</div>"
        f'<div>{number}. <span class="name">{name}</span>, {quality}</div>'
        f'<div class="place">{html.escape(printable(doubt.place))}</div></li>'
    )


def _picture(jpeg: bytes, words: str) -> str:
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="{words}">'


def _window(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box with its surroundings, in whole pixels within the image."""
    x, y, w, h = box
    margin = MARGIN * max(w, h)
    across, up = max(margin, (SMALLEST - w) / 2), max(margin, (SMALLEST - h) / 2)
    left, top = max(0, math.floor(x - across)), max(0, math.floor(y - up))
    return left, top, min(size[0], math.ceil(x + w + across)), min(size[1], math.ceil(y + h + up))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
