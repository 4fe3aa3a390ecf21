"""`serve`: a run in the browser, on a page that loads nothing from elsewhere.

As a Space, app.py is two lines: `from mask_frozen_detr.serving.app import serve` and
`serve("you/name", host="0.0.0.0")`.
"""

import os
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.model import MaskFrozenDetr

if TYPE_CHECKING:
    import fastapi

LARGEST_UPLOAD = "25mb"
MOST_WAITING = 20  # clicks of all visitors together


def serve(
    run: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    detector: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    prompt: str | None = None,
) -> None:
    """Serve a run, a folder or a hub repository, until Ctrl-C.

    Raises UserError where the port is taken, for what is no run, and without Gradio.
    """
    with listen(host, port) as listener:
        site = build_site(MaskFrozenDetr.from_pretrained(run, detector, revision, device=device, prompt=prompt))
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

    from mask_frozen_detr.serving.page import build_page

    return gr.mount_gradio_app(
        fastapi.FastAPI(),
        build_page(model.eval()).queue(max_size=MOST_WAITING),
        path="/",
        max_file_size=LARGEST_UPLOAD,
        # The machine's own fonts: none is fetched.
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        ssr_mode=False,
    )
