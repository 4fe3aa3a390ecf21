"""The page: drop a picture, move the threshold, choose classes, draw a box, take the masks home. Gradio's.

Nothing is sent anywhere but between browser and server. Imported by `build_site` alone, which sets what Gradio reads
when it is imported.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from mask_frozen_detr.errors import printable, reason
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.serving.downloads import write_downloads
from mask_frozen_detr.serving.visit import Visit, click, look_at

FORGOTTEN_AFTER = 3600  # seconds
THRESHOLD = 0.3
HINT = "Drop a picture. To get the mask in a box of your own, click on two opposite corners in the result."
DOWNLOADS = ("COCO", "YOLO", "PNG")  # as `write_downloads` gives them


def build_page(model: MaskFrozenDetr) -> gr.Blocks:
    """What a visitor sees, and what each click answers."""
    answers = Answers(model)
    with gr.Blocks(title="Mask Frozen-DETR", analytics_enabled=False, delete_cache=(600, FORGOTTEN_AFTER)) as page:
        visit = gr.State(None, time_to_live=FORGOTTEN_AFTER)
        folder = gr.State(None, time_to_live=FORGOTTEN_AFTER, delete_callback=_forget)
        gr.Markdown(f"## Mask Frozen-DETR\n{HINT}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                picture = gr.File(label="Picture", file_types=["image"], type="filepath", height=140)
                threshold = gr.Slider(0.05, 1, THRESHOLD, step=0.01, label="Least score")
                classes = gr.Dropdown([], multiselect=True, label="Classes (none chosen: all)")
                with gr.Row():
                    downloads = [gr.DownloadButton(name, interactive=False, min_width=80) for name in DOWNLOADS]
                undo = gr.Button("Remove drawn boxes", size="sm")
            with gr.Column(scale=2, min_width=300):
                result = gr.Image(label="Result", type="pil", format="png", interactive=False, buttons=["fullscreen"])
                told = gr.Textbox(label="Found", interactive=False, lines=1)

        now, shown = [visit, threshold, classes, folder], [result, told, folder, *downloads]
        one: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress": "minimal",
        }
        picture.change(answers.begin, [picture, threshold, folder], [visit, classes, *shown], **one)
        threshold.release(answers.show, now, shown, **one)
        classes.change(answers.show, now, shown, **one)
        result.select(answers.corner, now, [visit, *shown], **one)
        undo.click(answers.remove, now, [visit, *shown], **one)
    return page


@dataclass(frozen=True)
class Answers:
    """Answers what a visitor does: each method gives what the parts of the page hold from then on.

    seen: the visit; least and wanted: the threshold and the classes that are chosen; place: the visitor's folder of
    downloads, None before there is one.
    """

    model: MaskFrozenDetr

    def show(self, seen: Visit | None, least: float, wanted: Sequence[str], place: str | None) -> list[Any]:
        """Result, what is told of it, folder and downloads."""
        if seen is None:
            return [None, "", place, *(gr.DownloadButton(value=None, interactive=False) for _ in DOWNLOADS)]
        place = place or tempfile.mkdtemp(prefix="mask-frozen-detr-")
        instances = seen.chosen(least, wanted)
        files = write_downloads(Path(place), instances, seen.name, self.model.class_names)
        buttons = [gr.DownloadButton(value=file, interactive=True) for file in files]
        waiting = " – now click on the opposite corner" if seen.corner else ""
        return [seen.draw(instances), printable(instances.summary(), 500) + waiting, place, *buttons]

    def begin(self, path: str | None, least: float, place: str | None) -> list[Any]:
        """Another picture, or none: visit, its classes, and what `show` gives."""
        with _told():
            seen = None if path is None else look_at(self.model, path, printable(Path(path).name))
            names = [] if seen is None else sorted(set(seen.found.names))
            return [seen, gr.Dropdown(choices=names, value=[]), *self.show(seen, least, [], place)]

    def corner(
        self, seen: Visit | None, least: float, wanted: Sequence[str], place: str | None, event: gr.SelectData
    ) -> list[Any]:
        """A click into the result: the visit, and what `show` gives."""
        with _told():
            x, y = event.index
            seen = None if seen is None else click(self.model, seen, (float(x), float(y)))
            return [seen, *self.show(seen, least, wanted, place)]

    def remove(self, seen: Visit | None, least: float, wanted: Sequence[str], place: str | None) -> list[Any]:
        """No drawn box any more: the visit, and what `show` gives."""
        seen = None if seen is None else replace(seen, drawn=[], corner=None)
        return [seen, *self.show(seen, least, wanted, place)]


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with one picture is told on its page, in one line; the others go on."""
    try:
        yield
    except Exception as error:
        raise gr.Error(reason(error), print_exception=False) from error


def _forget(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
