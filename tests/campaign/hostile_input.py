"""Files of strangers: annotations, run folders and detector folders that nobody would write in earnest."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from campaign.bench import Bench, Try
from campaign.commands import Command, call, manners, run
from campaign.damage import check_predictions, damage
from campaign.hostile import ESCAPES, NUMBERS, TEXTS, hostile_value, mutate, text_of
from campaign.odd_pictures import put_not_a_file

OTHER = "another mask than pycocotools reads"
LARGEST_JUDGED = 4_000_000  # pixels of an image: pycocotools knows no bounds


def annotations(bench: Bench, random: Random, folder: Path) -> Try:
    data = folder / "data"
    (data / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (data / split).symlink_to(bench.data / split)
    for split in ("train2017", "val2017"):
        what = hostile_json(
            Path(shutil.copy(bench.data / "annotations" / f"instances_{split}.json", data / "annotations")), random
        )
    way = random.random()
    if way < 0.7:
        faults = manners(call(lambda: _read(data), folder, 30))
        if not faults:  # pycocotools may end by a signal on such files: what it has said until then counts
            said = Command(lambda: _compare(data), folder).wait(30).text
            faults = [line for line in said.splitlines() if line.startswith(OTHER)]
        return Try(f"read: {what}", faults)
    if way < 0.9:
        ran = run(["evaluate", bench.run, data, "--workers", "0"], folder)
        return Try(f"evaluate: {what}", manners(ran))
    options = ["--workers", "0", "--iterations", "2", *random.choice([[], ["--cache", str(folder / "cache")]])]
    command: list[str | Path] = ["train", bench.detector, data, "--output", folder / "run", "--roi-size", "8", *options]
    return Try(f"train: {what}", manners(run(command, folder)))


def _read(data: Path) -> int:
    """Both splits, as the command line reads them."""
    from mask_frozen_detr.data.load import load_split
    from mask_frozen_detr.errors import UserError

    code = 0
    for split in ("train", "val"):
        try:
            print(load_split(data, split).summary())
        except UserError as error:
            print(f"mask-frozen-detr: {error}")
            code = 2
    return code


def _compare(data: Path) -> int:
    """Tells of masks that are read as pycocotools reads none of that image and class."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    from mask_frozen_detr.data.load import load_split

    read = load_split(data, "train")
    theirs: dict[tuple[int, int], list[int]] = {}
    judge = COCO(str(data / "annotations" / "instances_train2017.json"))
    for one in judge.dataset["annotations"]:
        image = judge.imgs.get(one["image_id"])
        if image is not None and one.get("segmentation") and image["height"] * image["width"] <= LARGEST_JUDGED:
            area = int(coco_mask.area(judge.annToRLE(one)))
            theirs.setdefault((one["image_id"], one["category_id"]), []).append(area)
    for record in read.images:
        for ours in record.annotations:
            segmentation, size = ours.segmentation, (record.height, record.width)
            if segmentation is None or size[0] * size[1] > LARGEST_JUDGED:
                continue
            if isinstance(segmentation, list):
                segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
            elif isinstance(segmentation["counts"], list):
                segmentation = coco_mask.frPyObjects(segmentation, *size)
            area, known = int(coco_mask.area(segmentation)), theirs.get((record.id, ours.category_id), [])
            if area not in known:
                print(f"{OTHER}: {area} pixels in image {record.id}, pycocotools reads {known[:8]}")
    return 0


def hostile_json(path: Path, random: Random) -> str:
    """Make an honest file hostile, and say how; COCO's in ways of its own."""
    document = json.loads(path.read_text())
    coco = isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()
    document, what = hostile_document(document, random) if coco else mutate(document, random)
    content, odd = text_of(document, random)
    path.write_bytes(content)
    return f"{what} {odd}".strip()


def hostile_document(document: dict[str, Any], random: Random) -> tuple[Any, str]:
    """A hostile change of an honest COCO document."""
    image, annotation = random.choice(document["images"]), random.choice(document["annotations"])
    height, width = image["height"], image["width"]
    for one in document["annotations"][::2]:  # polygons as well
        x, y, w, h = one["bbox"]
        one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    kind = random.choice(["any", "any", "any", "size", "runs", "polygon", "names", "doubled", "several"])
    if kind == "size":
        image["width"], image["height"] = random.choice(NUMBERS), random.choice([height, *NUMBERS])
        return document, f"size {image['width']} × {image['height']}"
    if kind == "runs":
        size = [random.choice([height, *NUMBERS]), random.choice([width, *NUMBERS])]
        texts = ["", "\x1b[31m", "0" * 10**5, hostile_value(random)]
        counts = random.choice([[70_000**2], [0, height * width], [1, 2**31], [2**63], [-1, 1], [0.5], *texts])
        if random.random() < 0.4:  # that agree with the image's size
            size = [70_000, 70_000]
            image["height"], image["width"], counts = *size, [10, 70_000 * 70_000 - 10]
        annotation["image_id"] = image["id"]
        annotation["segmentation"] = {"size": size, "counts": counts}
        return document, f"size {size}, counts {str(counts)[:60]!r}"
    if kind == "polygon":
        points = random.choice([3, 1000, 200_000])
        span = random.choice([1.0, width, 1e6, 1e12, 1e300])
        annotation["segmentation"] = [[random.uniform(-span, span) for _ in range(2 * points)]]
        if random.random() < 0.3:
            annotation["segmentation"] = [[0, 0, 9, 0, 9, 9]] * points
        return document, f"polygon of {points} points within {span}"
    if kind == "names":
        text = random.choice([*ESCAPES, *TEXTS])
        random.choice(document["categories"])["name"] = text
        if random.random() < 0.5:
            image["file_name"] = random.choice([text, f"../{text}", f"{text}/{image['file_name']}"])
        return document, f"names {text[:40]!r}"
    if kind == "doubled":
        name = random.choice(["images", "annotations", "categories"])
        document[name] = document[name] * random.choice([2, 50])
        return document, f"{name} several times"
    what = []
    for _ in range(random.randrange(2, 8) if kind == "several" else 1):
        document, one = mutate(document, random)
        what.append(one)
    return document, "; ".join(what)[:300]


class Runs:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def _hostile_safetensors(random: Random, original: bytes) -> bytes:
    size = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + size])
    how = random.choice(["length", "header", "header", "header", "names", "pickle", "text"])
    if how == "length":
        return struct.pack("<Q", random.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1])) + original[8:]
    if how == "header":
        header, _ = mutate(header, random)
    elif how == "names":
        header[random.choice(TEXTS)] = header.pop(next(iter(header)))
    elif how == "pickle":
        return pickle.dumps(header)
    else:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n"
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + original[8 + size :]


def _spoil(path: Path, ran: Path, random: Random) -> str:
    """Make one file of a folder hostile; says how."""
    if random.random() < 0.15:
        return put_not_a_file(path, random)
    if path.suffix == ".safetensors":
        path.write_bytes(_hostile_safetensors(random, path.read_bytes()))
        return f"{path.name} is hostile"
    if path.suffix == ".pt":
        path.write_bytes(_hostile_checkpoint(ran, random))
        return f"{path.name} is hostile"
    if path.suffix not in (".json", ".jsonl"):
        return damage(path, random)
    what = []
    document = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    if document is None:
        document = json.loads(path.read_text())
    for _ in range(random.choice([1, 1, 1, 3])):
        document, one = mutate(document, random)
        what.append(one)
    if path.suffix == ".jsonl" and isinstance(document, list):
        path.write_text("\n".join(json.dumps(line) for line in document) + "\n")
    else:
        content, odd = text_of(document, random)
        path.write_bytes(content)
        what.append(odd)
    return f"{path.name}: {'; '.join(what)}"[:300]


def _hostile_checkpoint(ran: Path, random: Random) -> bytes:
    import io
    import zipfile

    how = random.choice(["pickle", "zip of a pickle", "zip", "deep"])
    if how == "pickle":
        return pickle.dumps({"step": Runs(ran)})
    if how == "deep":
        return b"\x80\x02" + b"]" * 100_000 + b"."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"step": Runs(ran)}) if "pickle" in how else b"noise")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def run_folders(bench: Bench, random: Random, folder: Path) -> Try:
    """Same predictions as of the honest folder, the same run after --resume, or an error."""
    ran_file = folder / "ran"
    resumes = random.random() < 0.4
    output = shutil.copytree(bench.killed if resumes and random.random() < 0.6 else bench.run, folder / "run")
    files = sorted(path for path in output.iterdir() if path.is_file())
    if not resumes:
        files = [output / "mask_frozen_detr.json"] * 3 + [output / "mask_network.safetensors"]
    what = _spoil(random.choice(files), ran_file, random)
    if resumes:
        ran = run(bench.train(output, "plain", "--resume"), folder)
        faults = manners(ran)
        if ran.code == 0 and not faults:
            from campaign.bench import hash_of

            expected = hash_of(bench.run / "mask_network.safetensors")
            if hash_of(output / "mask_network.safetensors") != expected:
                faults.append("silent: exit code 0, and other weights than of the honest run")
    else:
        shutil.copytree(bench.detector, folder / "detector")
        arguments = ["predict", output, bench.pictures()[0], "--output", folder / "out", "--score-threshold", "0"]
        ran = run([*map(str, arguments), "--detector", folder / "detector"], folder)
        faults = check_predictions(bench, folder, ran)
    if ran_file.exists():
        faults.append("code of the folder was run")
    return Try(f"{'resume' if resumes else 'predict'}: {what}", faults)


CODE = "open({ran!r}, 'w').close()\nraise ImportError('done')\n"


def detector_folders(bench: Bench, random: Random, folder: Path) -> Try:
    """Nothing asks, nothing runs, and either a detector or an error comes of it."""
    ran_file = folder / "ran"
    detector = shutil.copytree(bench.detector, folder / "detector")
    ways: dict[str, Callable[[], str]] = {
        "spoiled": lambda: _spoil(random.choice(sorted(detector.iterdir())), ran_file, random),
        "configured": lambda: _spoil(
            detector / random.choice(["config.json", "preprocessor_config.json"]), ran_file, random
        ),
        "code": lambda: _add_code(detector, ran_file, random),
        "pickle": lambda: _add_pickle(detector, ran_file, random),
        "names": lambda: _rename_classes(detector, random),
    }
    what = ways[random.choice(["spoiled", "configured", "configured", "code", "pickle", "names"])]()
    way = random.choice(["evaluate", "train", "predict"])
    command: list[str | Path]
    if way == "evaluate":
        command = ["evaluate", detector, bench.data, "--workers", "0"]
    elif way == "train":
        command = ["train", detector, bench.data, "--output", folder / "run", "--workers", "0", "--iterations", "1"]
    else:
        command = ["predict", bench.run, bench.pictures()[0], "--detector", detector, "--output", folder / "out"]
        command += ["--score-threshold", "0"]
    ran = run(command, folder)
    faults = manners(ran) if way != "predict" else check_predictions(bench, folder, ran)
    if ran_file.exists():
        faults.append("code of the folder was run")
    return Try(f"{way}: {what}", faults)


def _add_code(detector: Path, ran: Path, random: Random) -> str:
    (detector / "evil.py").write_text(CODE.format(ran=str(ran)))
    names = random.choice([["config.json"], ["preprocessor_config.json"], ["config.json", "preprocessor_config.json"]])
    for name in names:
        document = json.loads((detector / name).read_text())
        kinds = ["AutoConfig", "AutoModel", "AutoModelForObjectDetection", "AutoImageProcessor", "AutoProcessor"]
        document["auto_map"] = {kind: "evil.Evil" for kind in kinds}
        if random.random() < 0.5:
            document["trust_remote_code"] = True
        if random.random() < 0.5:
            document[random.choice(["model_type", "image_processor_type", "processor_class"])] = "evil"
        (detector / name).write_text(json.dumps(document))
    return f"auto_map in {names}"


def _add_pickle(detector: Path, ran: Path, random: Random) -> str:
    (detector / "model.safetensors").unlink()
    if random.random() < 0.5:
        name = "pytorch_model.bin"
        (detector / name).write_bytes(random.choice([pickle.dumps(Runs(ran)), _hostile_checkpoint(ran, random)]))
        return f"{name} is hostile"
    suffix = random.choice(["model.safetensors", "pytorch_model.bin"])
    index = {"metadata": {}, "weight_map": {"a": random.choice(["../../x", "part.bin", "/dev/zero", *TEXTS])}}
    index = mutate(index, random)[0] if random.random() < 0.5 else index
    (detector / f"{suffix}.index.json").write_text(json.dumps(index))
    (detector / "part.bin").write_bytes(pickle.dumps(Runs(ran)))
    return f"{suffix}.index.json: {str(index)[:100]}"


def _rename_classes(detector: Path, random: Random) -> str:
    document = json.loads((detector / "config.json").read_text())
    names = document["id2label"]
    how = random.choice(["escape", "same", "type", "more", "swap"])
    key = random.choice(list(names))
    if how == "escape":
        names[key] = random.choice(TEXTS)
    elif how == "same":
        document["id2label"] = dict.fromkeys(names, "disc")
    elif how == "type":
        names[key] = random.choice([*NUMBERS, None, [], {}])
    elif how == "more":
        names[random.choice(["-1", "99", "1000000", "x", "1e9"])] = "more"
    else:
        document["id2label"] = dict(zip(names, reversed(names.values()), strict=True))
    (detector / "config.json").write_text(json.dumps(document))
    return f"classes: {how} {str(document['id2label'])[:100]}"
