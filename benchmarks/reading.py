"""Reading annotations of COCO train2017's size: seconds, peak of memory, and what a process that loads pictures copies.

    python -m benchmarks.reading [FOLDER]

FOLDER keeps the file and the names of its pictures for another call; they are random outlines, as many and as long as
COCO's. The reading happens in a process of its own.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGES, ANNOTATIONS, CLASSES = 118_287, 850_000, 80
WIDTH, HEIGHT = 640, 480
OUTLINES = 5_000  # drawn; each stands in the file many times
POINTS = 20.5  # of an outline, on average, at least 3


def write_file(folder: Path, images: int, annotations: int) -> Path:
    """`instances.json` in COCO's order of keys, and empty files of its pictures' names."""
    rng = np.random.default_rng(0)
    outlines = [_outline(rng) for _ in range(OUTLINES)]
    pictures = rng.integers(1, images + 1, annotations).tolist()
    classes = rng.integers(1, CLASSES + 1, annotations).tolist()
    entries = [
        {
            "license": 3,
            "file_name": f"{number:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": f"http://farm9.staticflickr.com/8186/{number:010d}_z.jpg",
            "id": number,
        }
        for number in range(1, images + 1)
    ]
    names = [{"supercategory": "thing", "id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    file = folder / "instances.json"
    with file.open("w") as out:
        out.write(f'{{"info": {{"year": 2017}}, "licenses": [], "images": {json.dumps(entries)}, "annotations": [')
        for row, (picture, category) in enumerate(zip(pictures, classes, strict=True)):
            ids = f'"image_id": {picture}, "category_id": {category}, "id": {row + 1}'
            out.write(f"{', ' if row else ''}{{{outlines[row % OUTLINES]}, {ids}}}")
        out.write(f'], "categories": {json.dumps(names)}}}')
    for entry in entries:
        (folder / str(entry["file_name"])).touch()
    return file


def _outline(rng: np.random.Generator) -> str:
    """What an annotation says of its shape: some have two parts, one in a hundred is a crowd in run lengths."""
    size = rng.uniform(8, 300, 2)
    centre = rng.uniform(size / 2, np.array([WIDTH, HEIGHT]) - size / 2)
    parts = []
    for _ in range(1 if rng.random() < 0.87 else 2):
        points = 3 + int(min(rng.exponential(POINTS - 3), 700))
        angle, radius = np.sort(rng.random(points)) * 2 * np.pi, rng.uniform(0.6, 1, points)
        around = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
        parts.append((centre + size / 2 * around).round(2).ravel().tolist())
    crowd = rng.random() < 0.01
    runs = {"counts": [1000, 50, 430, 50, WIDTH * HEIGHT - 1530], "size": [HEIGHT, WIDTH]}
    box = [*(centre - size / 2).round(2).tolist(), *size.round(2).tolist()]
    shape = {
        "segmentation": runs if crowd else parts,
        "area": round(size.prod() * 0.6, 4),
        "iscrowd": int(crowd),
        "bbox": box,
    }
    return json.dumps(shape)[1:-1]


def measure(file: Path) -> dict[str, float]:
    """Read it, here; then look at every mask in a child, as a process that loads pictures does in time."""
    from mask_frozen_detr.data.formats.coco import read_coco

    before = time.perf_counter(), time.process_time()
    data = read_coco(file, file.parent)
    took = time.perf_counter() - before[0], time.process_time() - before[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert not data.skipped
    found = {
        "MB of the file": file.stat().st_size / 1e6,
        "annotations": sum(len(record.annotations) for record in data.images),
        "seconds": took[0],
        "seconds of the processor": took[1],
        "peak, MiB": peak,
        "kept, MiB": _memory("Rss"),
    }
    sys.stdout.flush()
    results, answers = os.pipe()
    child = os.fork()
    if child == 0:
        sum(len(annotation.segmentation or ()) for record in data.images for annotation in record.annotations)
        os.write(answers, f"{_memory('Private_Dirty')}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    return found | {"copied by a process that loads pictures, MiB": float(os.read(results, 100))}


def _memory(key: str) -> float:
    """Of this process, MiB, as Linux says."""
    found = re.search(rf"^{key}: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps({name: round(value, 1) for name, value in measure(arguments.measure).items()}, indent=1))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "instances.json"
        if not file.exists():
            write_file(folder, IMAGES, ANNOTATIONS)
        subprocess.run([sys.executable, "-m", "benchmarks.reading", "--measure", str(file)], check=True)


if __name__ == "__main__":
    main()
