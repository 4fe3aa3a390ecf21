"""Bytes that a disk, a copy or a download changed: an error, or the very same result as without."""

import json
import shutil
from pathlib import Path
from random import Random

from campaign.bench import STEPS, Bench, Outcome, Try, outcome, predictions
from campaign.commands import Ran, manners, run


def damage(path: Path, random: Random) -> str:
    """Change some bytes of a file; says which."""
    data = bytearray(path.read_bytes())
    # Headers are short and decide most: half of the damage is near the start.
    if not data:  # a lock
        path.write_bytes(random.randbytes(9))
        return f"{path.name}: no longer empty"
    at = random.randrange(min(len(data), random.choice([200, 3000, len(data), len(data)])))
    how = random.choice(["bit", "bit", "bit", "bits", "cut", "zeros", "appended", "inserted", "lost"])
    if how == "bit":
        data[at] ^= 1 << random.randrange(8)
    elif how == "bits":
        for _ in range(random.randrange(2, 40)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "zeros":
        end = min(len(data), at + random.choice([1, 16, 512, 4096]))
        data[at:end] = bytes(end - at)
    elif how == "appended":
        data += random.randbytes(random.choice([1, 100, 5000]))
    elif how == "inserted":
        data[at:at] = random.randbytes(random.choice([1, 4, 100]))
    else:
        del data[at : at + random.choice([1, 4, 100])]
    path.write_bytes(data)
    return f"{path.name}: {how} at {at} of {len(data)}"


def weights_of_runs(bench: Bench, random: Random, folder: Path) -> Try:
    """A run's network, description and the detector's files: what `predict` says with them."""
    shutil.copytree(bench.run, folder / "run")
    shutil.copytree(bench.detector, folder / "detector")
    names = ["run/mask_network.safetensors", "run/mask_network.safetensors", "run/mask_frozen_detr.json"]
    names += ["detector/model.safetensors", "detector/config.json", "detector/preprocessor_config.json"]
    path = folder / random.choice(names)
    what = damage(path, random)
    ran = _predict(bench, folder)
    return Try(what, check_predictions(bench, folder, ran))


def _predict(bench: Bench, folder: Path) -> Ran:
    return run(
        [
            *("predict", folder / "run", bench.pictures()[0], "--detector", folder / "detector"),
            *("--output", folder / "out", "--score-threshold", "0"),
        ],
        folder,
    )


def check_predictions(bench: Bench, folder: Path, ran: Ran) -> list[str]:
    faults = manners(ran)
    if ran.code == 0 and not faults and predictions(folder / "out", folder) != expected_predictions(bench):
        faults.append("silent: exit code 0, and other predictions than of the undamaged files")
    return faults


def expected_predictions(bench: Bench) -> object:
    """What `_predict` says of whole files."""
    kept = bench.root / "expected-predictions.json"
    if not kept.exists():
        folder = bench.root / f"expected-{id(bench)}-{kept.name}-{Path('/proc/self').resolve().name}"
        folder.mkdir()
        shutil.copytree(bench.run, folder / "run")
        shutil.copytree(bench.detector, folder / "detector")
        ran = _predict(bench, folder)
        if ran.code:
            raise RuntimeError(f"an undamaged run cannot predict: {ran.text}")
        part = folder / "part.json"
        part.write_text(json.dumps(predictions(folder / "out", folder)))
        part.rename(kept)
        shutil.rmtree(folder)
    return json.loads(kept.read_text())


def records_of_runs(bench: Bench, random: Random, folder: Path) -> Try:
    """What --resume reads: of a killed run it ends as undisturbed or is refused, of a finished one it changes
    nothing."""
    finished = random.random() < 0.3
    output = shutil.copytree(bench.run if finished else bench.killed, folder / "run")
    names = ["training.json", "mask_frozen_detr.json", "metrics.jsonl"]
    names += ["mask_network.safetensors", f"evaluation-{STEPS}.json"] if finished else ["checkpoint.pt"] * 3
    what = damage(output / random.choice(names), random)
    ran = run(bench.train(output, "plain", "--resume"), folder)
    faults = manners(ran)
    if ran.code == 0 and not faults:
        faults += _check_resumed(output, bench.undisturbed("plain"), "metrics" in what, finished)
    return Try(f"{'finished' if finished else 'killed'} run, {what}", faults)


def _check_resumed(output: Path, expected: Outcome, metrics_damaged: bool, finished: bool) -> list[str]:
    try:
        found = outcome(output)
    except ValueError:
        # Records that decide nothing and that nothing was asked of may stay as they are.
        return [] if finished else ["silent: exit code 0, and records that cannot be read"]
    other = found.differences(expected)
    if metrics_damaged and "metrics" in other:
        other.remove("metrics")  # lines of the past, changed within, are what they are
    if finished:
        return [f"silent: exit code 0, and other {name}" for name in other if name in ("weights", "detector")]
    return [f"silent: exit code 0, and other {name} than of the undisturbed run" for name in other]


def cached_outputs(bench: Bench, random: Random, folder: Path) -> Try:
    """A cache's files: made anew or refused, never taken as they are."""
    cache = shutil.copytree(next(bench.root.glob("cache")), folder / "cache")
    what = damage(random.choice(sorted(path for path in cache.rglob("*") if path.is_file())), random)
    ran = run(bench.train(folder / "run", "cache"), folder)
    faults = manners(ran)
    if ran.code == 0 and not faults:
        other = outcome(folder / "run").differences(bench.undisturbed("cache"))
        faults += [f"silent: exit code 0, and other {name} than with a whole cache" for name in other]
    return Try(what, faults)


def data_files(bench: Bench, random: Random, folder: Path) -> Try:
    """Annotations and pictures: what is damaged is named, or is other data, honestly read."""
    data = shutil.copytree(bench.data, folder / "data")
    paths = [*data.glob("annotations/*val*.json"), *data.glob("val2017/*")]
    victim = random.choice([paths[0], *paths])
    what = damage(victim, random)
    if random.random() < 0.5:
        ran = run(["evaluate", bench.run, data, "--workers", "0", "--json", folder / "f.json"], folder)
        faults = manners(ran)
        if ran.code == 0 and not faults:
            json.loads((folder / "f.json").read_text())
        return Try(f"evaluate, {what}", faults)
    ran = run(["predict", bench.run, data / "val2017", "--output", folder / "out"], folder)
    faults = manners(ran)
    found = predictions(folder / "out", folder)
    if not faults and ran.code:
        faults.append(f"one damaged picture ends it all: {ran.last_line}")
    elif not faults:
        listed = {Path(image["file_name"]).name for image in found["images"]}
        missing = {path.name for path in bench.pictures()} - listed
        if missing - {victim.name}:
            faults.append(f"good pictures are not predicted: {sorted(missing)}")
        if missing and victim.name not in ran.text:
            faults.append(f"{victim.name} is left out without a word")
    return Try(f"predict, {what}", faults)
