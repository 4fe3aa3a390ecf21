"""Pictures by their address, from a server on this machine."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from mask_frozen_detr import UserError
from mask_frozen_detr.data.inputs import to_picture

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved.png":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        if self.path not in ("/a.png", "/page.png"):
            self.send_error(404)
            return
        file = io.BytesIO()
        PICTURE.save(file, "png")
        content = file.getvalue() if self.path == "/a.png" else b"<html>\x1b[31m not here</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_from_the_web(site: str):
    np.testing.assert_array_equal(np.asarray(to_picture(f"{site}/a.png")), np.asarray(PICTURE))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("{site}/b.png", "b.png: cannot be downloaded: .*404"),
        ("{site}/page.png", "page.png: cannot be read as JPEG"),
        ("{site}/moved.png", "moved.png: cannot be downloaded: .*not allowed"),
        ("http://127.0.0.1:1/a.png", "a.png: cannot be downloaded: .*refused"),
        ("http://[half/a.png", "a.png: cannot be downloaded"),
    ],
)
def test_what_cannot_be_had(site: str, address: str, message: str):
    with pytest.raises(UserError, match=message):
        to_picture(address.format(site=site))


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/a.png", "file:///etc/hostname", "s3://bucket/a.png"])
def test_other_addresses_are_refused(address: str):
    with pytest.raises(TypeError, match="expected http or https"):
        to_picture(address)
