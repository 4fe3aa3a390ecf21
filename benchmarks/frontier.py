"""Mask AP against what it costs: a grid of mask networks, trained alike on a small budget.

    python -m benchmarks.frontier DETECTOR DATA --output runs/frontier --cache runs/cache --iterations 400

Each network of `GRID` is trained with the presets' training and one seed, evaluated on the val split, and timed against
the detector, all networks in turn within one measurement. OUTPUT/frontier.json holds what is done: called again, the
rest is done. frontier.md and frontier.png are drawn from it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate.utils import set_seed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tyro.conf import Positional

from benchmarks.measure import Timing, interleaved
from benchmarks.report import describe_run
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.load import load_data
from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.files import write_json_atomic, write_text_atomic
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.paper.complexity import complexity
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.presets import PRESETS, preset

FEW, MANY = 8, 100  # boxes an image: those that score over 0.3 on COCO, and all

_CONVNEXT = PRESETS["balanced"].network  # ConvNeXt, c = 64, r = 16
GRID = {
    "no encoders, c 64": replace(
        _CONVNEXT,
        image_encoder="none",
        image_layers=0,
        box_encoder="none",
        box_layers=0,
        query_ffn=False,
        query_b2o=False,
    ),
    "c 32": replace(_CONVNEXT, mask_width=32),
    "c 64": _CONVNEXT,
    "c 64, no image encoder": replace(_CONVNEXT, image_encoder="none", image_layers=0),
    "c 64, deformable image encoder": replace(_CONVNEXT, image_encoder="deformable", image_layers=2),
    "c 64, one box layer": replace(_CONVNEXT, box_layers=1),
    "c 32, r 24": replace(_CONVNEXT, mask_width=32, roi_size=24),
    "c 32, r 32": replace(_CONVNEXT, mask_width=32, roi_size=32),
    "c 128": replace(_CONVNEXT, mask_width=128),
    "c 128, three box layers": replace(_CONVNEXT, mask_width=128, box_layers=3),
    "c 128, all deformable": MaskNetworkConfig(roi_size=16, mask_scoring=False),
}


@dataclass
class Options:
    """Train, measure and plot a grid of mask networks."""

    detector: Positional[str]
    data: Positional[Path]
    output: Path
    cache: Path
    iterations: int = 400
    rounds: int = 5
    only: tuple[str, ...] = ()  # names of the grid; none: all of them


def trained_row(options: Options, name: str, config: MaskNetworkConfig) -> dict[str, Any]:
    """A network's figures but for its times."""
    data = load_data(options.data)
    _, training = preset("light", len(data.train.images))
    detector = load_detector(options.detector)
    set_seed(training.seed)  # the first weights, as in `train`
    model = MaskFrozenDetr.build(detector, config)
    training = replace(training, iterations=options.iterations)
    folder = options.output / name.replace(" ", "-").replace(",", "")
    evaluation = train(
        model, data.train, data.val, folder, training, resume=folder.exists(), cache=FrozenCache(options.cache, model)
    )
    assert evaluation is not None, "DATA has a val split"
    size = model.detector.info.preprocessing.probe_size()
    macs = {count: complexity(config, model.detector.shapes, count, size)[1] for count in (FEW, MANY)}
    return {
        "network": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "gmacs": {str(count): round(value / 1e9, 3) for count, value in macs.items()},
        "mask": evaluation.mask,
        "box_ap": evaluation.box["AP"],
    }


@torch.no_grad()
def times(options: Options, names: list[str]) -> dict[str, Timing]:
    """Milliseconds of the detector and of each network on one picture of the val split, all in turn."""
    detector = load_detector(options.detector)
    val = load_data(options.data).val
    assert val is not None, "data without a val split"
    picture = read_image(val.images[0].path)
    pixels, mask = collate_images([detector.info.preprocessing(picture)])
    found = detector(pixels, mask)
    works: dict[str, Any] = {"detector": lambda: detector(pixels, mask)}
    for name in names:
        network = MaskFrozenDetr.build(detector, GRID[name]).network.eval()
        for count in (FEW, MANY):
            queries = torch.arange(count)

            def work(network: Any = network, queries: torch.Tensor = queries) -> None:
                network(found, mask, torch.zeros_like(queries), queries)

            works[f"{name} {count}"] = work
    measured = interleaved(works, torch.device("cpu"), options.rounds)
    for name, timing in measured.items():
        assert isinstance(timing, Timing), f"{name}: {timing}"
    return {name: timing for name, timing in measured.items() if isinstance(timing, Timing)}


def table(result: dict[str, Any]) -> str:
    """Markdown, the cheapest first."""
    rows = sorted(result["rows"].items(), key=lambda row: row[1]["of_detector"][str(MANY)])
    lines = [
        f"| network | parameters (M) | GMACs, {MANY} boxes | {FEW} boxes, share of the detector's time | {MANY} boxes "
        "| mask AP | AP50 | AP75 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows:
        share, mask = row["of_detector"], row["mask"]
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} | {row['gmacs'][str(MANY)]:.2f} | {share[str(FEW)]:.2f} "
            f"| {share[str(MANY)]:.2f} | {mask['AP']:.1f} | {mask['AP50']:.1f} | {mask['AP75']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Mask AP against time and against multiply-accumulates of `MANY` boxes."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, key, label in (
        (axes[0], "of_detector", f"time of {MANY} masks, as a share of the detector's"),
        (axes[1], "gmacs", f"GMACs of {MANY} masks"),
    ):
        for name, row in result["rows"].items():
            axis.plot(row[key][str(MANY)], row["mask"]["AP"], "o", color="#1f6fb4")
            axis.annotate(
                name, (row[key][str(MANY)], row["mask"]["AP"]), (4, 4), textcoords="offset points", fontsize=7
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(x=0.25)
        axis.set_xlabel(label, fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mask AP", fontsize=8)
    figure.savefig(path)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    file = options.output / "frontier.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    names = list(options.only or GRID)
    for name in names:
        if name in result["rows"]:
            continue
        result["rows"][name] = trained_row(options, name, GRID[name])
        command = f"python -m benchmarks.frontier {Path(options.detector).name} {options.data.name} --iterations "
        run = {**describe_run(torch.device("cpu"), 1), "command": f"{command}{options.iterations}"}
        result.update(run=run, iterations=options.iterations)
        write_json_atomic(file, result)
        print(f"{name}: mask AP {result['rows'][name]['mask']['AP']:.1f}")
    names = list(result["rows"])
    measured = times(options, names)
    for name in names:
        result["rows"][name]["of_detector"] = {
            str(count): round(measured[f"{name} {count}"].median / measured["detector"].median, 3)
            for count in (FEW, MANY)
        }
    write_json_atomic(file, result)
    write_text_atomic(options.output / "frontier.md", table(result))
    plot(result, options.output / "frontier.png")


if __name__ == "__main__":
    main()
