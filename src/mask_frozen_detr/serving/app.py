"""The page: drop a picture, move the threshold, choose classes, draw a box, take the masks home. Gradio's.

Nothing is sent anywhere but between browser and server, and the page loads nothing from elsewhere. As a Space, app.py
is two lines: `from mask_frozen_detr.serving.app import serve` and `serve("you/name", host="0.0.0.0")`.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.serving.downloads import write_downloads
from mask_frozen_detr.serving.visit import Visit, click, look_at

if TYPE_CHECKING:
    import fastapi
    import gradio

LARGEST_UPLOAD = "25mb"
MOST_WAITING = 20  # clicks of all visitors together
FORGOTTEN_AFTER = 3600  # seconds
THRESHOLD = 0.3
HINT = "Drop a picture. To get the mask in a box of your own, click on two opposite corners in the result."


def serve(
    run: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    detector: str | None = None,
    revision: str | None = None,
    device: str | None = None,
) -> None:
    """Serve a run, a folder or a hub repository, until Ctrl-C.

    Raises UserError where the port is taken, for what is no run, and without Gradio.
    """
    with listen(host, port) as listener:
        site = build_site(MaskFrozenDetr.from_pretrained(run, detector, revision, device=device))
        import uvicorn

        print(f"http://{host}:{port}", flush=True)
        uvicorn.Server(uvicorn.Config(site, log_level="warning")).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Raises UserError where another program has the port, or the machine has no such address."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise UserError(
            f"port: {port} of {printable(host)} cannot be used ({reason(error)}); where another program has it, name "
            "another --port"
        ) from error
    return listener


def build_site(model: MaskFrozenDetr) -> "fastapi.FastAPI":
    """The page of one model, for any server of ASGI. Raises UserError without Gradio."""
    if find_spec("gradio") is None:
        raise UserError("serve: the package gradio is missing: pip install 'mask-frozen-detr[serve]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # pictures stay out of the browser's storage; older ones have no history
    import fastapi
    import gradio as gr

    return gr.mount_gradio_app(
        fastapi.FastAPI(),
        _page(model.eval()).queue(max_size=MOST_WAITING),
        path="/",
        max_file_size=LARGEST_UPLOAD,
        # The machine's own fonts: none is fetched.
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        ssr_mode=False,
    )


def _page(model: MaskFrozenDetr) -> "gradio.Blocks":
    import gradio as gr

    with gr.Blocks(title="Mask Frozen-DETR", analytics_enabled=False, delete_cache=(600, FORGOTTEN_AFTER)) as app:
        visit = gr.State(None, time_to_live=FORGOTTEN_AFTER)
        folder = gr.State(None, time_to_live=FORGOTTEN_AFTER, delete_callback=_forget)
        gr.Markdown(f"## Mask Frozen-DETR\n{HINT}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                picture = gr.File(label="Picture", file_types=["image"], type="filepath", height=140)
                threshold = gr.Slider(0.05, 1, THRESHOLD, step=0.01, label="Least score")
                classes = gr.Dropdown([], multiselect=True, label="Classes (none chosen: all)")
                with gr.Row():
                    names = ("COCO", "YOLO", "PNG")
                    downloads = [gr.DownloadButton(name, interactive=False, min_width=80) for name in names]
                undo = gr.Button("Remove drawn boxes", size="sm")
            with gr.Column(scale=2, min_width=300):
                result = gr.Image(label="Result", type="pil", format="png", interactive=False, buttons=["fullscreen"])
                told = gr.Textbox(label="Found", interactive=False, lines=1)
        shown = [result, told, folder, *downloads]

        def show(seen: Visit | None, least: float, wanted: list[str], place: str | None) -> list[Any]:
            """What `shown` holds from now on."""
            if seen is None:
                return [None, "", place, *(gr.DownloadButton(value=None, interactive=False) for _ in downloads)]
            place = place or tempfile.mkdtemp(prefix="mask-frozen-detr-")
            instances = seen.chosen(least, wanted)
            files = write_downloads(Path(place), instances, seen.name, model.class_names)
            buttons = [gr.DownloadButton(value=file, interactive=True) for file in files]
            waiting = " – now click on the opposite corner" if seen.corner else ""
            return [seen.draw(instances), printable(instances.summary(), 500) + waiting, place, *buttons]

        def begin(path: str | None, least: float, place: str | None) -> list[Any]:
            with _told():
                seen = None if path is None else look_at(model, path, printable(Path(path).name))
                found = [] if seen is None else sorted(set(seen.found.names))
                return [seen, gr.Dropdown(choices=found, value=[]), *show(seen, least, [], place)]

        def corner(
            seen: Visit | None, least: float, wanted: list[str], place: str | None, event: gr.SelectData
        ) -> list[Any]:
            with _told():
                seen = None if seen is None else click(model, seen, (float(event.index[0]), float(event.index[1])))
                return [seen, *show(seen, least, wanted, place)]

        def remove(seen: Visit | None, least: float, wanted: list[str], place: str | None) -> list[Any]:
            seen = None if seen is None else replace(seen, drawn=[], corner=None)
            return [seen, *show(seen, least, wanted, place)]

        now = [visit, threshold, classes, folder]
        one: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress": "minimal",
        }
        picture.change(begin, [picture, threshold, folder], [visit, classes, *shown], **one)
        threshold.release(show, now, shown, **one)
        classes.change(show, now, shown, **one)
        result.select(corner, now, [visit, *shown], **one)
        undo.click(remove, now, [visit, *shown], **one)
    return app


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with one picture is told on its page, in one line; the others go on."""
    import gradio as gr

    try:
        yield
    except Exception as error:
        raise gr.Error(reason(error), print_exception=False) from error


def _forget(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
