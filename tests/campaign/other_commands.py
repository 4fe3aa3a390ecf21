"""Hostile and damaged input to the commands beside train, evaluate and predict."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from campaign.bench import STEPS, Bench, Try, lost, predictions, tree
from campaign.commands import Ran, manners, run
from campaign.damage import damage
from campaign.hostile import mutate, text_of
from campaign.hostile_input import hostile_document, hostile_json
from campaign.odd_pictures import put, put_not_a_file


def annotated(bench: Bench, random: Random, folder: Path) -> Try:
    """Boxes get masks, and all else of a file stays as it is; called again it goes on."""
    data, output = folder / "data", folder / "labelled.json"
    shutil.copytree(bench.data, data)
    source = data / "annotations" / "instances_train2017.json"
    document = json.loads(source.read_text())
    for one in document["annotations"][::2]:
        del one["segmentation"]
    what = []
    if random.random() < 0.6:
        document, how = hostile_document(document, random)
        what.append(how)
    content, odd = text_of(document, random)
    source.write_bytes(content)
    what.append(odd)
    if random.random() < 0.5:
        what.append(_spoil_picture(random.choice(sorted((data / "train2017").iterdir())), random))
    if random.random() < 0.2:
        output.write_bytes(random.choice([b"the user's", b"", b"{}", content]))
        what.append("beside a file")
    before = tree(folder)
    command: list[str | Path] = ["annotate", bench.run, data, "--output", output]
    command += ["--review", str(random.choice([0, 1, 5]))]
    ran = run(command, folder)
    faults = manners(ran) + lost(before, {"labelled.json": before.get("labelled.json", ""), **tree(folder)})
    if ran.code == 0 and not faults:
        faults = _kept(content, output)
        if random.random() < 0.3:
            what.append(damage(output, random) if random.random() < 0.5 else "again")
            faults += manners(run(command, folder))
    return Try("; ".join(one for one in what if one)[:400], faults)


def _kept(content: bytes, output: Path) -> list[str]:
    """What of a file is another in the labelled one, of that which `annotate` does not add."""
    try:
        before, after = json.loads(content), json.loads(output.read_text())
    except ValueError:
        return [] if b"\xff" in content or b"\xef" in content else ["exit code 0, and no JSON"]
    ours = {"segmentation", "area", "mask_quality", "score", "iscrowd"}

    def rest(document: Any) -> str:
        kept = [{key: one[key] for key in one if key not in ours} for one in document["annotations"]]
        return json.dumps([document["images"], document["categories"], kept], sort_keys=True)

    was, now = rest(before), rest(after)
    if was == now:
        return []
    place = next((place for place, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    around = slice(max(0, place - 60), place + 60)
    return [f"entries of the file are others than they were: {was[around]!r} is {now[around]!r}"]


def _spoil_picture(path: Path, random: Random) -> str:
    if random.random() < 0.5:
        return damage(path, random)
    path.unlink()
    made, how = put(path, random)
    return f"{made.name}: {how}"


def films(bench: Bench, random: Random, folder: Path) -> Try:
    """A spoilt film beside a whole one and a picture: these two are done, it is done in part or named."""
    (folder / "in").mkdir()
    film = folder / "in" / f"spoilt{random.choice(['.mp4', '.mp4', '.mov', '.mkv', '.avi', '.MP4'])}"
    shutil.copy(bench.film(), film)
    way = random.random()
    if way < 0.75:
        what = "; ".join(damage(film, random) for _ in range(random.choice([1, 1, 3])))
    elif way < 0.9:
        film.unlink()
        what = put_not_a_file(film, random)
    else:
        film.write_bytes(random.choice([b"", b"404 not found", bytes(5000), bench.pictures()[0].read_bytes()]))
        what = "no film"
    shutil.copy(bench.film(), folder / "in" / "whole.mp4")
    shutil.copy(bench.pictures()[0], folder / "in" / "picture.jpg")
    inputs = sorted((folder / "in").iterdir())  # of a folder the pictures alone are taken
    ran = run(["predict", bench.run, *inputs, "--output", folder / "out"], folder)
    faults = manners(ran)
    if not faults and ran.code:
        faults.append(f"one spoilt film ends it all: {ran.last_line}")
    if not faults:
        found = [json.loads(line) for line in (folder / "out" / "whole.jsonl").read_text().splitlines()]
        if [line["frame"] for line in found] != [0, 1, 2]:
            faults.append(f"the whole film has {len(found)} lines, expected 3")
        if len(predictions(folder / "out", folder)["images"]) != 1:
            faults.append("the picture is not predicted")
        done = folder / "out" / "spoilt.jsonl"
        if done.exists():
            [json.loads(line) for line in done.read_text().splitlines()]
        elif "spoilt" not in ran.text and film.is_file():
            faults.append("the spoilt film is left out without a word")
    return Try(what, faults)


def exported(bench: Bench, random: Random, folder: Path) -> Try:
    """A damaged or hostile exported model: refused, or the very predictions of the whole one."""
    model = shutil.copytree(bench.exported(), folder / "model")
    victim = model / random.choice(["model.onnx", "model.json", "model.json"])
    if random.random() < 0.15:
        what = put_not_a_file(victim, random)
    elif victim.suffix == ".json" and random.random() < 0.7:
        document, how = mutate(json.loads(victim.read_text()), random)
        content, odd = text_of(document, random)
        victim.write_bytes(content)
        what = f"{how} {odd}"
    else:
        what = damage(victim, random)
    command: list[str | Path] = ["predict", model, bench.pictures()[0], "--output", folder / "out"]
    if random.random() < 0.3:
        command = ["evaluate", model, bench.data, "--workers", "0"]
    ran = run(command, folder)
    faults = manners(ran)
    if not faults and ran.code == 0 and command[0] == "predict":
        wanted = bench.root / "expected-of-exported"
        if not wanted.exists():
            run(["predict", bench.exported(), bench.pictures()[0], "--output", wanted], folder)
        found, expected = predictions(folder / "out", folder), predictions(wanted, folder)
        if found["annotations"] != expected["annotations"]:
            faults.append("silent: exit code 0, and other predictions than of the whole model")
    return Try(f"{command[0]}, {what}", faults)


def inspected(bench: Bench, random: Random, folder: Path) -> Try:
    """A look at hostile data, with pictures: nothing of it is raw on the page."""
    data = shutil.copytree(bench.data, folder / "data")
    what = []
    for split in ("train2017", "val2017"):
        if random.random() < 0.7:
            what.append(hostile_json(data / "annotations" / f"instances_{split}.json", random))
        if random.random() < 0.4:
            what.append(_spoil_picture(random.choice(sorted((data / split).iterdir())), random))
    page, figures = folder / "page.html", folder / "figures.json"
    foreign = random.random() < 0.1
    if foreign:
        random.choice([page, figures]).write_text("the user's")
    before = tree(folder)
    command: list[str | Path] = ["inspect", data, "--html", page, "--json", figures, "--pictures", "3"]
    command += [bench.detector] if random.random() < 0.3 else []
    ran = run(command, folder)
    faults = manners(ran)
    faults += lost(before, tree(folder))
    if ran.code == 0 and not faults:
        json.loads(figures.read_text())
        if "<script>alert" in page.read_text():
            faults.append("markup of a name is raw on the page")
    return Try(f"{'beside foreign, ' if foreign else ''}{'; '.join(what)}"[:400], faults)


def compared(bench: Bench, random: Random, folder: Path) -> Try:
    """Results, figures and run folders of strangers beside one's own."""
    way = random.choice(["results", "results", "figures", "history"])
    command: list[str | Path] = ["compare", bench.run]
    if way == "results":
        for kind in ("bbox", "segm"):
            shutil.copy(bench.root / f"results.{kind}.json", folder)
        victim = folder / f"results.{random.choice(['bbox', 'segm'])}.json"
        command += [folder / "results.json", "--data", bench.data, "--workers", "0", "--resamples", "10"]
    elif way == "figures":
        victim = Path(shutil.copy(bench.root / "figures.json", folder))
        command += [victim]
    else:
        other = shutil.copytree(bench.run, folder / "run")
        victim = other / random.choice([f"evaluation-{STEPS}.json", "training.json", "metrics.jsonl"])
        command += [other]
    if random.random() < 0.1:
        what = put_not_a_file(victim, random)
    elif random.random() < 0.2 or victim.suffix == ".jsonl":
        what = damage(victim, random)
    else:
        what = hostile_json(victim, random)
    command += random.choice([[], ["--json", folder / "all.json"], ["--report", folder / "report"]])
    before = tree(folder)
    ran = run(command, folder)
    return Try(f"{way}: {what}", [*manners(ran), *lost(before, tree(folder)), *_raw(ran, folder)])


def _raw(ran: Ran, folder: Path) -> list[str]:
    page = folder / "report" / "comparison.html"
    if ran.code == 0 and page.exists() and "<script>alert" in page.read_text():
        return ["markup of a name is raw on the page"]
    return []


def benchmarked(bench: Bench, random: Random, folder: Path) -> Try:
    """`benchmark` and `export --precision int8` on pictures of which some are odd."""
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(bench.pictures()[0], pictures / "good.jpg")
    odd = [put(pictures / f"odd{number}", random) for number in range(random.choice([1, 2]))]
    inputs = [pictures] if random.random() < 0.7 else sorted(pictures.iterdir())
    ran = run(["benchmark", bench.run, *inputs, "--rounds", "1", "--pictures", "9"], folder)
    faults = manners(ran)
    if not faults and ran.code:
        faults.append(f"odd pictures end it all: {ran.last_line}")
    return Try("; ".join(f"{path.name}: {how}" for path, how in odd), faults)
