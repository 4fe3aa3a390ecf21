"""Files of the user's where a command writes: none is changed, deleted or followed out of the folder."""

import shutil
from pathlib import Path
from random import Random

from campaign.bench import STEPS, Bench, Try, lost, tree
from campaign.commands import manners, run

# Names that a command may want for itself, and names that nobody wants.
NAMES = [
    *("mask_network.safetensors", "mask_frozen_detr.json", "training.json", "metrics.jsonl", "checkpoint.pt"),
    *(f"evaluation-{STEPS}.json", "evaluation-1.json", "evaluation-notes.json", "detector/model.safetensors"),
    *("detector/notes.txt", "tensorboard/events.mine", ".notes.part", "thesis.part2.txt", ".thesis.1.part.json"),
    *("predictions.json", "results.json", "masks.png", "notes.txt", ".hidden", "lock", ".lock", "run.lock"),
    *("reproduce.json", "reproduce.md", "reproduce.png", "timing/notes.txt", "timing/metrics.jsonl"),
    *("runs/roi-seed0/notes.txt", "cache.json", "figures.json", "sub/folder/deep.txt"),
    *("predictions.txt", "predictions-results.json", "instances.json"),
]


def _put_foreign(output: Path, outside: Path, names: list[str], random: Random) -> list[str]:
    """Foreign files, folders and links in an output folder; `outside` is what links lead to."""
    put: list[str] = []
    for name in names:
        path = output / name
        if path.exists() or path.is_symlink():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        how = random.choice(["text", "text", "json", "empty", "link", "link to nothing", "folder"])
        if how == "link":
            path.symlink_to(outside / "precious.txt")
        elif how == "link to nothing":
            path.symlink_to(outside / f"new-{len(put)}.txt")
        elif how == "folder":
            path.mkdir()
            (path / "inner.txt").write_text("the user's")
        else:
            path.write_text({"text": "the user's", "json": '{"images": []}', "empty": ""}[how])
        put.append(f"{name} ({how})")
    return put


def tried(bench: Bench, random: Random, folder: Path) -> Try:
    output, outside = folder / "out", folder / "outside"
    output.mkdir()
    outside.mkdir()
    (outside / "precious.txt").write_text("precious")
    way = random.choice(list(WAYS))
    return WAYS[way](bench, random, folder, output, outside)


def _finish(what: str, command: list, folder: Path, allowed: set[str] | None = None) -> Try:
    """Runs a command; all that was below `folder` before must still be there. allowed: what is the command's own."""
    before = tree(folder)
    ran = run(command, folder)
    faults = manners(ran) + [
        fault for fault in lost(before, tree(folder)) if not allowed or fault.rpartition(" was ")[0] not in allowed
    ]
    new = [name for name in tree(folder) if name not in before and name.startswith("outside/")]
    faults += [f"{name} was written outside, by way of a link" for name in new]
    return Try(what, faults)


def _named(put: list[str]) -> set[str]:
    """An empty file that an option names (`touch`, `mktemp`) is there to be written."""
    return {f"out/{one.removesuffix(' (empty)')}" for one in put if one.endswith(" (empty)")}


def _train(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    names = random.sample(NAMES, random.randrange(1, 5))
    put = _put_foreign(output, outside, names, random)
    more = random.choice([[], [], ["--overwrite"], ["--resume"]])
    return _finish(f"train {more} beside {put}", bench.train(output, "plain", *more), folder)


def _overwrite(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    """A run's own files may go; what lies beside them stays."""
    output.rmdir()
    shutil.copytree(random.choice([bench.run, bench.killed]), output)
    own = {f"out/{name}" for name in tree(output)}
    put = _put_foreign(output, outside, random.sample(NAMES, random.randrange(1, 5)), random)
    more = random.choice(["--overwrite", "--resume"])
    return _finish(f"train {more} of a run beside {put}", bench.train(output, "plain", more), folder, own)


def _detector_in_place(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    """The output folder is the one that the detector or the data lie in."""
    output.rmdir()
    kind = random.choice(["detector", "its parent", "data", "annotations", "pictures"])
    if kind in ("detector", "its parent"):
        output.mkdir()
        detector = output if kind == "detector" else output / "detector"
        shutil.copytree(bench.detector, detector, dirs_exist_ok=True)
        command = bench.train(output)
        command[1] = str(detector)
    else:
        shutil.copytree(bench.data, output)
        place = {"data": output, "annotations": output / "annotations", "pictures": output / "val2017"}[kind]
        command = bench.train(place)
        command[2] = str(output)
        if kind == "pictures":
            command = ["predict", str(bench.run), str(place), "--output", str(place)]
    more = ["--overwrite"] if command[0] == "train" and random.random() < 0.3 else []
    return _finish(f"{command[0]} into {kind} {more}", command + more, folder)


def _evaluate(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    data = shutil.copytree(bench.data, folder / "data")
    model = shutil.copytree(bench.run, folder / "run")
    target = random.choice(
        [
            data / "annotations" / "instances_val2017.json",
            next((data / "val2017").iterdir()),
            model / random.choice(["mask_frozen_detr.json", "training.json", "mask_network.safetensors"]),
            *[output / name for name in ("figures.json", "notes.txt", "results.json")] * 2,
        ]
    )
    put = [] if target.exists() else _put_foreign(output, outside, [target.name], random)
    option = random.choice(["--json", "--results-file"])
    more = [option, str(target)]
    if random.random() < 0.3:
        more = ["--json", str(target), "--results-file", str(target)]
    command = ["evaluate", str(model), str(data), "--workers", "0", *more]
    return _finish(f"evaluate {more[0]} {target.relative_to(folder)} {put}", command, folder, _named(put))


def _predict(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    names = [f"{path.stem}{suffix}" for path in bench.pictures() for suffix in (".png", ".probabilities.png")]
    put = _put_foreign(output, outside, random.sample([*NAMES, *names * 2], random.randrange(1, 5)), random)
    command = ["predict", str(bench.run), str(bench.data / "val2017"), "--output", str(output)]
    command += ["--probability-maps"] if random.random() < 0.5 else []
    return _finish(f"predict beside {put}", command, folder)


def _reproduce(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    put = _put_foreign(output, outside, random.sample([*NAMES, *NAMES[20:29]], random.randrange(1, 5)), random)
    table, budget = random.choice(["table1", "table1", "table5"]), "1it"
    options = ["--roi-size", "8", "--workers", "0", "--max-images", "1", "--max-detections", "5", "--warmup", "0"]
    command = ["reproduce", table, str(bench.detector), str(bench.data), "--output", str(output), "--budget", budget]
    return _finish(f"reproduce {table} {budget} beside {put}", [*command, *options, "--min-box-iou", "0"], folder)


def _complexity(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    put = _put_foreign(output, outside, [random.choice(["figures.json", "notes.txt"])], random)
    target = output / put[0].split(" ")[0]
    command = ["complexity", "--table", "1", "--json", str(target)]
    return _finish(f"complexity --json {put}", command, folder, _named(put))


def _demo(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    shutil.copytree(bench.data, output / "scenes-300-60-0")  # or the demo would render 360 of its own
    names = [f"run/{name}" for name in NAMES[:12]]
    put = _put_foreign(output, outside, random.sample([*NAMES, *names], random.randrange(1, 5)), random)
    return _finish(f"demo beside {put}", ["demo", "--output", str(output), "--iterations", "1"], folder)


def _convert(bench: Bench, random: Random, folder: Path, output: Path, outside: Path) -> Try:
    put = _put_foreign(output, outside, random.sample(NAMES, random.randrange(1, 3)), random)
    checkpoint = random.choice([bench.killed / "checkpoint.pt", bench.run / "mask_network.safetensors"])
    return _finish(f"convert beside {put}", ["convert", str(checkpoint), str(output)], folder)


WAYS = {
    "train": _train,
    "train again": _train,
    "overwrite": _overwrite,
    "overwrite again": _overwrite,
    "in place": _detector_in_place,
    "evaluate": _evaluate,
    "evaluate again": _evaluate,
    "predict": _predict,
    "predict again": _predict,
    "reproduce": _reproduce,
    "complexity": _complexity,
    "demo": _demo,
    "convert": _convert,
}
