"""The page in a real browser: a picture in, masks out; what is wrong is told, and nothing is fetched from elsewhere."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsers import TIMEOUT, open_browser

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.serving import app as app_module
from mask_frozen_detr.serving.app import build_site, listen, serve

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    uvicorn = pytest.importorskip("uvicorn")
    listener = listen("127.0.0.1", 0)  # any free port
    server = uvicorn.Server(uvicorn.Config(build_site(model), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def page(address) -> Iterator[Any]:
    """An open page; what it asks for and what its console says is checked at the end."""
    asked: list[str] = []
    said: list[str] = []
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_default_timeout(TIMEOUT)
        page.goto(address)
        yield page
    assert {urlsplit(url).hostname for url in asked if url.startswith("http")} == {"127.0.0.1"}
    # Gradio 6.17 ends each of its streams by an AbortError, newer ones without a word.
    assert not [words for words in said if not words.startswith("AbortError")]


def told(page: Any, words: str) -> None:
    """Waits until the line of what was found holds these words."""
    page.wait_for_function(
        "words => [...document.querySelectorAll('textarea')].some(t => t.value.includes(words))", arg=words
    )


def test_a_picture_its_masks_a_drawn_box_and_files(page, model, scenes, tmp_path):
    photo = scenes[1].images[0].path
    expected = model.predict(photo, 0.3)
    page.locator("input[type=file]").set_input_files(photo)
    told(page, expected.summary())
    with page.expect_download() as download:
        page.get_by_role("button", name="COCO").click()
    download.value.save_as(tmp_path / "coco.json")
    assert len(json.loads((tmp_path / "coco.json").read_text())["annotations"]) == len(expected)

    result = page.locator("img").last.bounding_box()
    for x, y in ((0.2, 0.2), (0.7, 0.8)):
        page.mouse.click(result["x"] + x * result["width"], result["y"] + y * result["height"])
        told(page, "opposite corner" if x == 0.2 else "")
        page.wait_for_timeout(300)
    page.wait_for_function("!document.body.innerText.includes('processing')")
    before = len(expected)
    page.wait_for_function(
        "before => [...document.querySelectorAll('textarea')].some("
        "t => (t.value.match(/\\d+/g) || []).reduce((a, b) => a + +b, 0) === before + 1)",
        arg=before,
    )

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.reload()
    page.locator("input[type=file]").set_input_files(broken)
    page.get_by_text("broken.png: ").first.wait_for()
    page.reload()
    page.locator("input[type=file]").set_input_files(photo)
    told(page, expected.summary())  # one bad picture does not end it


def test_an_upload_that_is_too_large_ends_nothing(address):
    httpx = pytest.importorskip("httpx")
    for size, code in ((27_000_000, 413), (1000, 200)):
        files = {"files": ("picture.png", bytes(size))}
        assert httpx.post(f"{address}/gradio_api/upload", files=files, timeout=120).status_code == code


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), ("192.0.2.1", 7860), ("no host", 7860)])
def test_a_port_that_is_taken_and_an_address_that_is_elsewhere(host, port):
    """Said before anything is loaded: the run is none either."""
    with listen("127.0.0.1", 0) as taken:
        port = port or taken.getsockname()[1]
        taken.listen()
        with pytest.raises(UserError, match=rf"port: {port} of {host} cannot be used.*--port"):
            serve("no run", host, port)


def test_without_gradio_its_extra_is_named(monkeypatch, tmp_path, squashing, tiny_network, capfd):
    monkeypatch.setattr(app_module, "find_spec", lambda name: None)
    MaskFrozenDetr.build(squashing, tiny_network).save_pretrained(tmp_path / "run")
    assert main(["serve", str(tmp_path / "run"), "--port", "7993"]) == 2
    assert "pip install 'mask-frozen-detr[serve]'" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "70000"], ["--device", "tpu9"]])
def test_options_without_sense(words, tmp_path, capfd):
    assert main(["serve", str(tmp_path), *words]) == 2
    assert f"{words[0].removeprefix('--')}: found" in capfd.readouterr().err


def test_what_is_no_run(tmp_path: Path, capfd):
    assert main(["serve", str(tmp_path), "--device", "cpu"]) == 2
    assert "expected a run folder" in capfd.readouterr().err
