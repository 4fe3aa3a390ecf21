"""Exported models beside torch: milliseconds a picture, with masks and of the detector alone, all in turn in one run.

    python -m benchmarks.export DETECTOR --graphs runs/graphs --output runs/export-femto.json
    python -m benchmarks.export DETECTOR --graphs runs/real --output runs/export-femto-pictures.json --pictures val2017
    python -m benchmarks.export h-detr --networks light balanced --graphs runs/h --output runs/export-h-detr.json

Networks are the presets', and light-upsampled: light with --roi-size 8 --upsample 2.
DETECTOR is a folder or a name on the hub, or "h-detr": H-Deformable-DETR ResNet-50 with random weights. Mask networks
have random weights, on which time does not depend. Without pictures the input is noise, and each query stands for its
best class, so that so many detections are so many masks; with them the detections are the detector's own, several of
which may be classes of one query and share its mask, and times are means over the pictures. Graphs of the two kinds
belong into folders of their own. OUTPUT gets the figures, and OUTPUT with .md a table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn
from tyro.conf import Positional

from benchmarks.contestants import h_deformable_detr, h_detr_info
from benchmarks.measure import Timing, interleaved
from benchmarks.report import describe_run
from benchmarks.sizes import FULL
from mask_frozen_detr.data.images import find_images, read_image
from mask_frozen_detr.data.preparation import Preparation
from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.detectors.base import ScoreRule
from mask_frozen_detr.detectors.official import OfficialDetector, OfficialDetr
from mask_frozen_detr.export.checks import with_canvas
from mask_frozen_detr.export.graph import OUTPUTS, MaskGraph, mask_of
from mask_frozen_detr.export.preprocessing import portable
from mask_frozen_detr.export.tracing import Example, quiet, trace
from mask_frozen_detr.machine.files import write_json_atomic, write_text_atomic
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.inference import best_pairs
from mask_frozen_detr.runtime.description import InputSize
from mask_frozen_detr.runtime.model import feed
from mask_frozen_detr.runtime.sessions import open_session
from mask_frozen_detr.training.presets import PRESETS, PresetName

OPSET = 20
RUNTIMES = ("onnxruntime", "openvino")
NetworkName = PresetName | Literal["light-upsampled"]
NETWORKS: dict[NetworkName, MaskNetworkConfig] = {
    **{name: preset.network for name, preset in PRESETS.items()},
    "light-upsampled": replace(PRESETS["light"].network, roi_size=8, upsample=2),
}


@dataclass
class Options:
    """Time exported models beside torch."""

    detector: Positional[str]
    output: Path
    graphs: Path  # of these networks at this size; those that are there are taken as they are
    networks: tuple[NetworkName, ...] = ("light", "light-upsampled", "balanced")
    masks: int = 100  # at most: detections of a picture
    pictures: str | None = None  # a folder of real ones
    limit: int = 8  # of these
    threads: tuple[int, ...] = (1, 2)
    size: tuple[int, int] | None = None
    rounds: int = 5


class DetectorGraph(nn.Module):
    """The detector alone, to the boxes, scores and classes that `MaskGraph` starts from."""

    def __init__(self, detector: FrozenDetector, detections: int):
        super().__init__()
        self.detector, self.detections = detector, detections

    def forward(self, images: Tensor, score_threshold: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        pixel_mask = None if sizes is None else mask_of(sizes, images.shape[2], images.shape[3])
        found = self.detector(images, pixel_mask)
        scores, queries, labels = best_pairs(found.logits, self.detector.info.score_rule, self.detections)
        return found.boxes.gather(1, queries[:, :, None].expand(-1, -1, 4)), scores + 0 * score_threshold, labels


def detector_of(name: str, one_class_a_query: bool) -> FrozenDetector:
    if name == "h-detr":
        torch.manual_seed(0)
        return OfficialDetector(OfficialDetr(h_deformable_detr(FULL)), h_detr_info())
    detector = load_detector(name)
    if one_class_a_query:
        detector.info = replace(detector.info, score_rule=ScoreRule("sigmoid", best_only=True))
    return detector


def exported(graph: nn.Module, outputs: Sequence[str], example: Example, place: Path) -> Path:
    if place.exists():
        return place
    with torch.no_grad(), quiet():
        program, _ = trace(graph, example, OPSET, "benchmark", outputs)
    place.write_bytes(program.model_proto.SerializeToString())
    return place


def inputs_of(options: Options, preparation: Preparation, example: Example) -> list[dict[str, Tensor]]:
    """What the graphs take, a picture each."""
    if options.pictures is None:
        return [example.some(1)]
    height, width = preparation.canvas or preparation.size
    taken = InputSize(1, height, width, preparation.canvas is not None)
    prepared = [preparation(read_image(path)) for path in find_images([options.pictures])[: options.limit]]
    return [{name: torch.from_numpy(value) for name, value in feed(taken, [one], 0.0).items()} for one in prepared]


def named(graph: nn.Module) -> Callable[[dict[str, Tensor]], Any]:
    """A graph that takes its inputs as a runtime's session does."""
    return lambda inputs: graph(**inputs)


def through(run: Callable[[dict[str, Any]], Any], inputs: Sequence[dict[str, Any]]) -> None:
    for one in inputs:
        run(one)


def works(
    graphs: dict[str, tuple[nn.Module, Path]], inputs: Sequence[dict[str, Tensor]], threads: int
) -> dict[str, Callable[[], Any]]:
    """The pictures, one after the other, through each graph in each runtime."""
    arrays = [{name: value.numpy() for name, value in one.items()} for one in inputs]
    made: dict[str, Callable[[], Any]] = {}
    for name, (graph, file) in graphs.items():
        made[f"{name}, torch"] = partial(through, named(graph), inputs)
        for runtime in RUNTIMES:
            session = open_session(file, OPSET, runtime, threads)  # type: ignore[arg-type]
            made[f"{name}, {runtime}"] = partial(through, session, arrays)
    return made


def table(result: dict[str, Any]) -> str:
    lines = ["| | threads | torch, ms | ONNX Runtime | OpenVINO |", "| --- | --- | --- | --- | --- |"]
    for row in result["rows"]:
        cells = (row["ms"][runtime] for runtime in ("torch", *RUNTIMES))
        lines.append(f"| {row['graph']} | {row['threads']} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    detector = detector_of(options.detector, one_class_a_query=options.pictures is None)
    preparation = with_canvas(portable(detector.info.preprocessing, "benchmark"), options.size, "benchmark")
    height, width = preparation.canvas or preparation.size
    example = Example.of(height, width, preparation.canvas is not None)
    rows: list[dict[str, Any]] = []
    options.graphs.mkdir(parents=True, exist_ok=True)
    alone = DetectorGraph(detector, options.masks).eval()
    file = exported(alone, ("boxes", "scores", "labels"), example, options.graphs / "detector.onnx")
    graphs: dict[str, tuple[nn.Module, Path]] = {"detector alone": (alone, file)}
    for name in options.networks:
        torch.manual_seed(0)
        graph = MaskGraph(MaskFrozenDetr.build(detector, NETWORKS[name]).eval(), options.masks).eval()
        graphs[name] = (graph, exported(graph, OUTPUTS, example, options.graphs / f"{name}.onnx"))
    inputs = inputs_of(options, preparation, example)
    queries = [graphs[options.networks[0]][0](**one)[OUTPUTS.index("queries")] for one in inputs]
    for threads in options.threads:
        torch.set_num_threads(threads)
        measured = interleaved(works(graphs, inputs, threads), torch.device("cpu"), options.rounds)
        for label in graphs:
            found = {runtime: measured[f"{label}, {runtime}"] for runtime in ("torch", *RUNTIMES)}
            wrong = [timing for timing in found.values() if not isinstance(timing, Timing)]
            assert not wrong, wrong
            timings = {key: timing for key, timing in found.items() if isinstance(timing, Timing)}
            ms = {key: round(timing.median / len(inputs), 1) for key, timing in timings.items()}
            rows.append({"graph": label, "threads": threads, "ms": ms})
    torch.set_num_threads(1)
    run = describe_run(torch.device("cpu"), 1)
    shown = f"python -m benchmarks.export {Path(options.detector).name} --networks {' '.join(options.networks)}"
    real = "" if options.pictures is None else f" --pictures {Path(options.pictures).name} --limit {options.limit}"
    result = {
        "run": {**run, "command": f"{shown} --masks {options.masks} --rounds {options.rounds}{real}"},
        "input": [height, width],
        "detections": options.masks,
        "masks of each picture": [len(one.unique()) for one in queries],
        "clock": "one thread: the processor's time; more: the wall's; median of the rounds, all graphs in turn",
        "rows": rows,
    }
    write_json_atomic(options.output, result)
    write_text_atomic(options.output.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()
