"""What the documentation says can be typed in: every command is run on tiny models, or parsed by what it calls."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from synthetic_detections import scattered

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.cli import main
from mask_frozen_detr.cli.run import COMMANDS
from mask_frozen_detr.serving import app as serving_app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHELLS = {"sh", "bash", "console", "shell"}
TINY = shlex.split(
    "--iterations 2 --workers 0 --min-box-iou 0 --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8"
    " --device cpu"
)


def blocks(page: Path, languages: set[str]) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.S | re.M)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Each command of the page's shell blocks and sentences, in words; placeholders like "…" are left out."""
    for block in [*blocks(page, SHELLS), *re.findall(r"`(mask-frozen-detr [^`]+)`", page.read_text())]:
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\$\(.*\)", "FOUND", line)  # what another command prints
            words = [word for word in shlex.split(line, comments=True) if word not in ("…", "...")]
            if words:
                yield words


@pytest.fixture
def _parsed_alone(monkeypatch):
    for kind in COMMANDS.values():
        monkeypatch.setattr(kind, "run", lambda self: None)


def check_make(words: list[str]) -> None:
    targets = [word for word in words[1:] if "=" not in word]
    subprocess.run(["make", "--dry-run", "INSTALLED=", *targets], cwd=ROOT, check=True, capture_output=True)


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for wanted in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert set(wanted.split(",")) <= set(extras), words


def check_launch(words: list[str]) -> None:
    """Accelerate's and torchrun's own parsers take their options; ours takes what is behind the module."""
    place = words.index("mask_frozen_detr.cli")
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        parser, options = get_args_parser(), words[1:]
    else:
        from accelerate.commands.launch import launch_command_parser

        parser, options = launch_command_parser(), words[2:]
    assert parser.parse_args(options).module
    check_command(words[place:])


def check_command(words: list[str]) -> None:
    assert main(words[1:]) == 0, words


def check_python(words: list[str]) -> None:
    if words[1] == "-c":
        compile(words[2], "-c", "exec")
    elif words[1] == "-m":
        assert find_spec(words[2]) is not None, words
    else:  # a script of the repository, or one that the docs give in full
        written = any(f"`{words[1]}`" in page.read_text() for page in PAGES)
        assert written or (ROOT / words[1]).exists(), words


CHECKS = {
    "mask-frozen-detr": check_command,
    "make": check_make,
    "pip": check_pip,
    "accelerate": check_launch,
    "torchrun": check_launch,
    "python": check_python,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("_parsed_alone")
def test_every_command_is_one(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # settings of the environment
            words = words[1:]
        if not words:
            continue
        assert words[0] in CHECKS, f"{page.name}: {shlex.join(words)}: a test should know this command"
        CHECKS[words[0]](words)


def test_a_command_that_is_none_is_noticed():
    """Or the test above could not fail."""
    assert main(["train", "DETECTOR", "DATA", "--output", "run", "--no-such-option"]) == 2
    with pytest.raises(subprocess.CalledProcessError):
        check_make(["make", "no-such-target"])


@pytest.fixture
def place(squashing, squashing_folder, scenes_folder, tiny_network, tmp_path, monkeypatch) -> Path:
    """A folder with all that the pages name: DETECTOR, DATA, photos, a photo and a run."""
    (tmp_path / "DETECTOR").symlink_to(squashing_folder)
    (tmp_path / "DATA").symlink_to(scenes_folder)
    shutil.copytree(scenes_folder / "val2017", tmp_path / "photos")
    shutil.copyfile(next((tmp_path / "photos").iterdir()), tmp_path / "photo.jpg")
    model = scattered(squashing, tiny_network)
    model.save_pretrained(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_page_from_top_to_bottom(place, capsys):
    """Its commands in their order, as somebody types them; the demo is another test's."""
    shutil.rmtree("runs")
    for words in commands(ROOT / "docs" / "index.md"):
        if words[0] == "mask-frozen-detr" and words[1] != "demo":
            assert main(words[1:] + (TINY if words[1] == "train" else ["--device", "cpu"])) == 0
    assert len(list(Path("out").glob("*.png"))) == len(list(Path("photos").iterdir()))
    for program in blocks(ROOT / "docs" / "index.md", {"python"}):
        exec(compile(program, "index.md", "exec"), {})
    assert "AP50" in capsys.readouterr().out


def test_the_page_on_sharing(place, monkeypatch):
    sent: list[str] = []
    monkeypatch.setattr(MaskFrozenDetr, "push_to_hub", lambda self, name: sent.append(name))
    monkeypatch.setattr(serving_app, "serve", lambda name, host: sent.append(name))
    for program in blocks(ROOT / "docs" / "share.md", {"python"}):
        exec(compile(program, "share.md", "exec"), {})
    assert sent == ["you/name", "you/name"]
    assert (place / "runs" / "shared" / "config.json").exists()


def said() -> str:
    """All texts of the source, what is filled in left out."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_each_message_of_the_troubleshooting_page_is_one():
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(headings) > 15
    source = said()
    assert not [heading for heading in headings if heading not in source]


def test_the_site_names_pages_that_exist():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2].partition("\nplugins:")[0]
    pages = re.findall(r": ([\w-]+\.md)$", nav, re.M)
    assert pages[0] == "index.md"
    assert not [page for page in pages if not (ROOT / "docs" / page).exists()]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").glob("*.html"):
        assert not re.search(r'(src|href)="https?://[^"]*\.(js|css|woff2?)"', page.read_text()), page.name


def notebook() -> list[str]:
    content = json.loads((ROOT / "docs" / "first-masks.ipynb").read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run_notebook(sizes: str | None) -> str:
    """The cells in their order, in one namespace, as Jupyter runs them. sizes: other values for the first cell's."""
    names: dict = {}
    for number, cell in enumerate(notebook()):
        code = re.sub(r"^ITERATIONS, .*", sizes, cell, flags=re.M) if sizes else cell
        exec(compile(code, f"first-masks.ipynb, cell {number}", "exec"), names)
    return names["evaluation"]


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "ITERATIONS, TRAIN_IMAGES, VAL_IMAGES = " in notebook()[0]
    run_notebook("ITERATIONS, TRAIN_IMAGES, VAL_IMAGES = 2, 6, 3")


@pytest.mark.slow
def test_the_notebook_gives_masks(tmp_path, monkeypatch):
    """With its own sizes: far above the training-free baseline's 0.2."""
    monkeypatch.chdir(tmp_path)
    assert run_notebook(None).mask["AP"] > 35  # type: ignore[attr-defined]


def test_the_workflow_and_the_image_call_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make check", "make test"} <= set(runs)
    assert dockerfile("CMD") == ['["make", "demo"]']
    runs += ["make demo", *(run for run in dockerfile("RUN") if run.startswith("make "))]
    for run in runs:
        if not run.startswith("docker "):
            check_make(run.split())


def dockerfile(instruction: str) -> list[str]:
    """What follows each such instruction."""
    lines = [line.partition(" ") for line in (ROOT / "Dockerfile").read_text().splitlines()]
    return [rest for word, _, rest in lines if word == instruction]


@pytest.mark.slow
def test_the_image_runs_what_it_says(tmp_path):
    """All but the system it starts from: its COPY, its `make install`, its CMD with two iterations.

    What it would download is here: an environment of its own gets nothing but the package.
    """
    site, app, tools = Path(pytest.__file__).parents[1], tmp_path / "app", tmp_path / "tools"
    tools.mkdir()
    for path in [*site.glob("setuptools*"), *site.glob("_distutils_hack")]:
        (tools / path.name).symlink_to(path)
    if not (tools / "setuptools").exists():
        pytest.skip("setuptools is not installed")
    for copied in dockerfile("COPY"):
        *names, target = copied.split()
        for name in names:
            place = app / target / (name if (ROOT / name).is_file() else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copyfile if (ROOT / name).is_file() else shutil.copytree)(ROOT / name, place)

    def run(*words: str, packages: Path) -> str:
        offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHON": sys.executable}
        environment = {**os.environ, **offline, "PYTHONPATH": str(packages)}
        done = subprocess.run(words, cwd=app, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for command in dockerfile("RUN"):
        if command.startswith("make "):
            run(*command.split(), packages=tools)
    (demo,) = run("make", "--dry-run", "demo", packages=tools).splitlines()
    run(*shlex.split(demo), "--iterations", "2", packages=site)
    assert (app / "demo-output" / "run" / "mask_network.safetensors").exists()
