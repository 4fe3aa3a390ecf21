"""What a run was made with, changed before it goes on or is used: refused, with a line that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from PIL import Image, ImageFilter

from campaign.bench import Bench, Try
from campaign.commands import manners, run

Change = Callable[[Path, Random], str]


def _annotations(change: Callable[[dict, Random], str]) -> Change:
    def apply(folder: Path, random: Random) -> str:
        file = folder / "data" / "annotations" / "instances_train2017.json"
        document = json.loads(file.read_text())
        what = change(document, random)
        file.write_text(json.dumps(document))
        return what

    return apply


def _known(document: dict) -> list[dict]:
    """Annotations of the detector's classes: the others are left out of training."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    return [one for one in document["annotations"] if names[one["category_id"]] in ("disc", "ring", "star")]


def _polygon(document: dict, random: Random) -> str:
    one = random.choice(_known(document))
    x, y, w, h = one["bbox"]
    one["segmentation"] = [[x, y, x + w, y, x + w, y + h / 2]]
    return "a mask"


def _box(document: dict, random: Random) -> str:
    one = random.choice(_known(document))
    one["bbox"] = [value + 1 if place < 2 else value - 1 for place, value in enumerate(one["bbox"])]
    return "a box"


def _category(document: dict, random: Random) -> str:
    one = random.choice(_known(document))
    one["category_id"] = one["category_id"] % 3 + 1
    return "a category"


def _categories(document: dict, random: Random) -> str:
    first, second = document["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]
    return "names of categories"


def _order(document: dict, random: Random) -> str:
    document["images"].reverse()
    return "order of images"


def _crowd(document: dict, random: Random) -> str:
    random.choice([one for one in _known(document) if not one["iscrowd"]])["iscrowd"] = 1
    return "a crowd"


def _picture(folder: Path, random: Random) -> str:
    document = json.loads((folder / "data" / "annotations" / "instances_train2017.json").read_text())
    used = {one["image_id"] for one in _known(document)}  # the others are left out of training
    names = sorted(image["file_name"] for image in document["images"] if image["id"] in used)
    path = folder / "data" / "train2017" / random.choice(names)
    Image.open(path).filter(ImageFilter.GaussianBlur(3)).save(path)
    return "a picture"


def _configuration(name: str, keys: dict[str, object]) -> Change:
    def apply(folder: Path, random: Random) -> str:
        file = folder / "detector" / name
        document = json.loads(file.read_text())
        key = random.choice(list(keys))
        assert document.get(key) != keys[key], "no change"
        document[key] = keys[key]
        file.write_text(json.dumps(document))
        return f"{name}: {key}"

    return apply


PREPROCESSING = _configuration(
    "preprocessor_config.json",
    {
        "size": {"height": 96, "width": 96},
        "do_rescale": False,
        "rescale_factor": 0.01,
        "do_normalize": False,
        "image_mean": [0.5, 0.5, 0.5],
        "resample": 0,
    },
)
CONFIGURATION = _configuration(
    "config.json",
    {
        "activation_function": "gelu",
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 1,
        "position_embedding_type": "learned",
        "id2label": {"0": "ring", "1": "disc", "2": "star"},
    },
)
OF_DATA: list[Change] = [
    *map(_annotations, [_polygon, _box, _category, _categories, _order, _crowd]),
    _picture,
]
OF_DETECTORS: list[Change] = [PREPROCESSING, CONFIGURATION]


def before_resume(bench: Bench, random: Random, folder: Path) -> Try:
    output = shutil.copytree(bench.killed, folder / "run")
    shutil.copytree(bench.data, folder / "data")
    shutil.copytree(bench.detector, folder / "detector")
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    command = bench.train(output, "plain", "--resume")
    command[1:3] = [str(folder / "detector"), str(folder / "data")]
    if random.random() < 0.1:
        ran = run(command, folder)  # nothing but the place is another
        return Try("moved", manners(ran, (0,)))
    what = random.choice(random.choice([OF_DATA, OF_DETECTORS]))(folder, random)
    ran = run(command, folder)
    faults = manners(ran)
    if ran.code == 0 and not faults:
        faults.append("goes on without a word")
    after = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    if ran.code == 2 and {name: after.get(name) for name in before} != before:
        faults.append("refused, but the run folder was changed")
    return Try(f"resume, changed {what}", faults)


def before_use(bench: Bench, random: Random, folder: Path) -> Try:
    """`predict` and `evaluate` of a run whose detector is not what it was."""
    shutil.copytree(bench.detector, folder / "detector")
    what = random.choice(OF_DETECTORS)(folder, random)
    commands: list[list[str | Path]] = [
        ["predict", bench.run, bench.pictures()[0], "--output", folder / "out"],
        ["evaluate", bench.run, bench.data, "--workers", "0"],
    ]
    command = random.choice(commands)
    ran = run([*command, "--detector", folder / "detector"], folder)
    faults = manners(ran)
    if ran.code == 0 and not faults:
        faults.append("is used without a word")
    return Try(f"{command[0]}, changed {what}", faults)
