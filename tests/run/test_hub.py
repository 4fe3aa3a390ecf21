"""A run on the Hugging Face hub, which a fake stands for at the client's public methods; nothing is sent anywhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.model import CONFIG_FILE, WEIGHTS_FILE
from mask_frozen_detr.run import hub
from mask_frozen_detr.run.card import CARD_FILE
from mask_frozen_detr.run.transformers_names import TRANSFORMERS_FILES


class Hub:
    """Keeps what it is sent. card: README.md that lies there already."""

    token: str | None
    created: tuple[str, bool, bool]
    files: dict[str, bytes]
    card: Path | None = None

    def __init__(self, token: str | None = None):
        Hub.token = token

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> str:
        Hub.created = (repo_id, private, exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        assert filename == CARD_FILE
        if Hub.card is None:
            raise answer(RemoteEntryNotFoundError, 404)
        return str(Hub.card)

    def upload_folder(
        self, repo_id: str, folder_path: str, commit_message: str, ignore_patterns: list[str] | None
    ) -> None:
        files = (path for path in Path(folder_path).rglob("*") if path.is_file())
        Hub.files = {
            path.relative_to(folder_path).as_posix(): path.read_bytes()
            for path in files
            if path.name not in (ignore_patterns or [])
        }


@pytest.fixture(autouse=True)
def _fake_hub(monkeypatch):
    monkeypatch.setattr(hub, "HfApi", Hub)
    Hub.card = None


@pytest.fixture
def saved(model, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "femto")
    return tmp_path / "femto"


def test_push_to_hub_sends_what_the_run_is(model, saved):
    assert model.push_to_hub("me/masks", private=True, token="secret") == "https://huggingface.co/me/masks"
    assert Hub.created == ("me/masks", True, True)
    assert Hub.token == "secret"
    assert Hub.files.keys() == {CONFIG_FILE, WEIGHTS_FILE, *TRANSFORMERS_FILES, CARD_FILE}
    assert Hub.files[WEIGHTS_FILE] == (saved / WEIGHTS_FILE).read_bytes()
    written, kept = json.loads(Hub.files[CONFIG_FILE]), json.loads((saved / CONFIG_FILE).read_text())
    assert kept.pop("detector_place")["absolute"] == kept["detector"]["name"]
    assert written == kept  # places on this machine are nobody else's business


def test_the_records_of_a_run_make_its_card(saved):
    sizes = {"APs": 10.5, "APm": 25.4, "APl": 41.5}
    figures = {"AP": 24.22, "AP50": 42.17, "AP75": 23.34, **sizes}
    evaluation = {
        "box": {"AP": 33.58, "AP50": 48.1, "AP75": 35.94, **sizes},
        "mask": figures,
        "by_class": {"disc": {"box": 1.0, "mask": None}},
        "images": 206,
        "seconds": 1.0,
        "classes": "",
        "problems": [],
        "scorer": "pycocotools 2.0.8",
    }
    (saved / "evaluation-1200.json").write_text(json.dumps(evaluation))
    (saved / "evaluation-900.json").write_text(json.dumps({**evaluation, "mask": {**figures, "AP": 1.0}}))
    (saved / "training.json").write_text(json.dumps({"steps": 1200, "lr": 0.001, "data": {"training images": 340}}))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(saved / "evaluation-1200.jpg")
    MaskFrozenDetr.from_pretrained(saved).push_to_hub("me/masks")
    assert not any(name.endswith(".jpg") for name in Hub.files)  # photos of the user's: only where they are asked for
    MaskFrozenDetr.from_pretrained(saved).push_to_hub("me/masks", pictures=True)
    card: Any = ModelCard(Hub.files[CARD_FILE].decode())
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.model_name == "me/masks"
    assert card.data.license is None
    assert "# license:" in Hub.files[CARD_FILE].decode()
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {
        "box_ap": 33.58,
        "mask_ap": 24.22,
        "mask_ap50": 42.17,
        "mask_ap75": 23.34,
        "mask_to_box_ratio": 0.721,
    }
    for words in (
        "| mask | 24.2 | 42.2 | 23.3 |",
        "training images: 340",
        "iterations: 1,200",
        "(evaluation-1200.jpg)",
    ):
        assert words in card.text
    assert Hub.files["evaluation-1200.jpg"] == (saved / "evaluation-1200.jpg").read_bytes()
    shutil.copytree(saved, saved / "best", ignore=shutil.ignore_patterns("evaluation-*", "training.json"))
    (saved / "best" / "evaluation.json").write_text(json.dumps({**evaluation, "mask": {**figures, "AP": 25.0}}))
    best = MaskFrozenDetr.from_pretrained(saved / "best").card("me/best").text()
    assert "| mask | 25.0 | 42.2 | 23.3 |" in best
    assert "iterations: 1,200" in best


def test_a_detector_of_the_hub_is_the_base_model(model, monkeypatch):
    text = model.card("me/masks").text()
    assert "base_model" not in text  # it lies on a disk
    assert "detector=FOLDER" in text
    with monkeypatch.context() as patch:
        patch.setattr(model, "own_detector", True)
        assert "fine-tuned together" in model.card("me/masks").text()
    monkeypatch.setattr(model.detector.info, "path", None)
    identity = model.detector.info.identity
    monkeypatch.setattr(model.detector.info, "identity", type(identity)("their/detr", "abc", "0", "rt_detr"))
    assert ModelCard(model.card("me/masks").text()).data.to_dict()["base_model"] == "their/detr"


def test_names_of_classes_are_text_within_the_card(model, monkeypatch):
    names = ["<script>alert(1)</script>", "a|b", "\x1b[31mred", "x" * 500]
    monkeypatch.setattr(model.detector.info, "class_names", names)
    text = model.card("me/masks").text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert r"a\|b" in text
    assert "x" * 100 not in text


def test_a_card_that_somebody_edited_stays(model, saved, tmp_path):
    card = saved / CARD_FILE
    card.write_text(card.read_text().replace("# license: apache-2.0", "license: mit"))
    edited = card.read_text()
    model.save_pretrained(saved)
    assert card.read_text() == edited
    MaskFrozenDetr.from_pretrained(saved).push_to_hub("me/masks")
    assert Hub.files[CARD_FILE].decode() == edited
    Hub.card = tmp_path / "there.md"
    Hub.card.write_text("# Ours\n")
    model.push_to_hub("me/masks")
    assert CARD_FILE not in Hub.files
    Hub.card.write_text(model.card("me/masks").text())
    model.push_to_hub("me/masks")
    assert CARD_FILE in Hub.files


def test_a_readme_of_somebody_else_stays(model, tmp_path):
    (tmp_path / CARD_FILE).write_text("mine\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / CARD_FILE).read_text() == "mine\n"


def answer(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers={}, request=None, text="")
    return kind("refused", response=response)  # type: ignore[arg-type]


REFUSALS: dict[str, tuple[Callable[[], Exception], str]] = {
    "no permission": (lambda: answer(HfHubHTTPError, 403), "does not permit this.*hf auth login"),
    "not logged in": (lambda: answer(HfHubHTTPError, 401), "does not permit this.*hf auth login"),
    "no token": (lambda: LocalTokenNotFoundError("no token"), "no token: log in"),
    "bad name": (lambda: HFValidationError("bad"), 'expected one like "you/name"'),
    "offline": (lambda: OfflineModeIsEnabled("offline"), "cannot be reached: offline"),
    "network lost": (lambda: LocalEntryNotFoundError("offline"), "cannot be reached: offline"),
    "no network": (lambda: ConnectionError("no route to host"), "no route to host"),
    "hub down": (lambda: answer(HfHubHTTPError, 503), "the hub refuses"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_hub_that_refuses(why, model, monkeypatch):
    make, words = REFUSALS[why]

    def refuse(*_: object, **__: object) -> None:
        raise make()

    Hub.files = {}
    for method in ("create_repo", "hf_hub_download", "upload_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(Hub, method, refuse)
            with pytest.raises(UserError, match=rf"^me/masks: .*{words}"):
                model.push_to_hub("me/masks")
    assert not Hub.files


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "../x", ""])
def test_names_that_are_none(name, model, monkeypatch):
    """By the client's own check, before anything is sent."""
    monkeypatch.undo()
    with pytest.raises(UserError, match=r'expected one like "you/name"'):
        model.push_to_hub(name)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: answer(RepositoryNotFoundError, 404), "no such repository"),
        (lambda: answer(RevisionNotFoundError, 404), "no such branch, tag or commit"),
        (lambda: LocalEntryNotFoundError("offline"), "cannot be reached: offline"),
    ],
)
def test_a_run_that_the_hub_does_not_give(error, words, monkeypatch, capfd):
    def refuse(*_: object, **__: object) -> None:
        raise error()

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=rf"me/masks: no {CONFIG_FILE} in it.*{words}"):
        MaskFrozenDetr.from_pretrained("me/masks")
    assert main(["predict", "me/masks", "x.jpg", "--output", "out"]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_from_pretrained_takes_a_hub_repository(model, saved, scenes, monkeypatch):
    asked: dict[str, Any] = {}

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, allow_patterns=allow_patterns)
        return str(saved)

    monkeypatch.setattr(hub, "snapshot_download", download)
    again = MaskFrozenDetr.from_pretrained("me/masks", revision="v1")
    wanted = [CONFIG_FILE, WEIGHTS_FILE, "detector/*", *TRANSFORMERS_FILES]  # detector: of runs that fine-tuned theirs
    assert asked == {"name": "me/masks", "revision": "v1", "allow_patterns": wanted}
    photo = scenes[1].images[0].path
    assert np.array_equal(again.predict(photo, 0.01).masks, model.predict(photo, 0.01).masks)
