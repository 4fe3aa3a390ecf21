"""Which stem for a detector without a stride-4 map? A detector that has one, with it hidden, and each choice trained.

    python benchmarks/stem_choice.py DETECTOR DATA --output runs/stem --iterations 300 --lr 2e-3 --warmup 50

none: E₁ upsampled, nothing added. backbone: the backbone's next map, its second stage. pixels: the learned stem.
C₁ is what was hidden, for comparison. Same seed, data and training for all; figures in OUTPUT/stem-choice.json.
"""

import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro
from accelerate.utils import set_seed
from torch import nn
from tyro.conf import OmitArgPrefixes, Positional

from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import TransformersDetector, load_detector
from mask_frozen_detr.detectors.transformers_detector import backbone_type
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.loop import train

FIRST, SECOND = "stages.0", "stages.1"  # of the backbone: strides 4 and 8


@dataclass
class Options:
    """Train the mask network once with each stem."""

    detector: Positional[str]
    data: Positional[Path]
    output: Path
    network: OmitArgPrefixes[MaskNetworkConfig] = field(default_factory=MaskNetworkConfig)
    training: OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: TrainConfig(iterations=300))
    timed: int = 10  # predictions of one image, for the time of each


def hide_stem(detector: TransformersDetector, earlier: bool) -> TransformersDetector:
    """The same detector, handing out its backbone's second stage for a stem, or nothing."""
    kind = backbone_type(detector.model.config)
    path = detector.family.stems.get(kind, "")
    if not path.endswith(FIRST):
        raise UserError(f"{detector.info.identity.name}: expected a backbone with a first and a second stage")
    stems = {kind: path.removesuffix(FIRST) + SECOND} if earlier else {}
    return TransformersDetector(detector.model, detector.info, replace(detector.family, stems=stems))


def choices(name: str, network: MaskNetworkConfig) -> dict[str, tuple[TransformersDetector, MaskNetworkConfig]]:
    """Detector and mask network of each choice."""

    def load() -> TransformersDetector:
        detector = load_detector(name)
        assert isinstance(detector, TransformersDetector), "a detector of transformers"
        return detector

    return {
        "none": (hide_stem(load(), earlier=False), replace(network, stem=False, neck=False)),
        "backbone": (hide_stem(load(), earlier=True), replace(network, stem_from="backbone")),
        "pixels": (hide_stem(load(), earlier=False), replace(network, stem_from="pixels")),
        "C₁": (load(), network),
    }


def parameters(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    train_data, val_data = load_split(options.data, "train"), load_split(options.data, "val")
    image = val_data.images[0].path
    rows = []
    for choice, (detector, network) in choices(options.detector, options.network).items():
        set_seed(options.training.seed)  # the first weights, as in `train`
        model = MaskFrozenDetr.build(detector, network)
        folder = options.output / {"C₁": "c1"}.get(choice, choice)
        began = time.perf_counter()
        evaluation = train(model, train_data, val_data, folder, options.training)
        minutes = (time.perf_counter() - began - (evaluation.seconds if evaluation else 0)) / 60
        assert evaluation is not None
        seconds = []
        for _ in range(options.timed):
            began = time.perf_counter()
            model.predict(image)
            seconds.append(time.perf_counter() - began)
        rows.append(
            {
                "stem": choice,
                "stride": None if model.network.stem is None else model.network.stem.stride,
                "parameters": parameters(model.network),
                "of them for the stem": parameters(model.network.pixel_stem) + parameters(model.network.fusion),
                "training_minutes": round(minutes, 2),
                "prediction_ms": round(1000 * statistics.median(seconds), 1),
                "evaluation": evaluation.as_dict(),
            }
        )
        write_json_atomic(
            options.output / "stem-choice.json",
            {"detector": options.detector, "iterations": options.training.iterations, "rows": rows},
        )
        print(f"{choice}: mask AP {evaluation.mask['AP']:.1f}, box AP {evaluation.box['AP']:.1f}")


if __name__ == "__main__":
    main()
