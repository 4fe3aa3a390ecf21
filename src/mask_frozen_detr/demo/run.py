"""The main job on the embedded default: scenes, the detector the package ships, masks in a minute or two, a picture."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import set_seed
from PIL import Image

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR, render_scenes
from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, evaluate
from mask_frozen_detr.machine.files import save_image_atomic
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.results.drawing import draw_boxes, draw_instances, draw_truth, draw_wall
from mask_frozen_detr.training.config import MasksFrom, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.own_files import is_run

WALL_FILE = "masks.png"
WALL_ROWS = 6
WALL_SCORE = 0.4  # of what is drawn, at least


@dataclass(frozen=True)
class DemoConfig:
    """Sizes that take some two minutes on two CPU cores."""

    train_images: int = 300
    val_images: int = 60
    iterations: int = 220
    batch: int = 4
    seed: int = 0
    masks_from: MasksFrom = "annotations"


def run_demo(output: Path, config: DemoConfig | None = None) -> tuple[Evaluation, Evaluation]:
    """Render, train, measure and draw into `output`; returns the training-free and the trained figures.

    Raises UserError where `output` cannot be written, or holds a picture of the user's where the demo puts its own.
    """
    config = config or DemoConfig()
    wall_file = output / WALL_FILE
    if os.path.lexists(wall_file) and (wall_file.is_symlink() or not is_run(output / "run")):
        raise UserError(f"{wall_file}: no demo wrote it, and this one would replace it; give another --output")
    start = time.perf_counter()
    print(f"1. Rendering {config.train_images} + {config.val_images} synthetic scenes with masks")
    data = output / f"scenes-{config.train_images}-{config.val_images}-{config.seed}"
    if not data.exists():  # rendered whole or not at all
        render_scenes(data, config.train_images, config.val_images, config.seed)
    train_data, val_data = load_split(data, "train"), load_split(data, "val")

    detector = load_detector(str(SCENE_DETECTOR))
    before = hash_weights(detector.model)
    count = sum(p.numel() for p in detector.parameters())
    print(f"2. The frozen detector: {detector.info.identity.family}, {count / 1e6:.1f} M parameters, boxes only")
    baseline = evaluate(MaskFrozenDetr.training_free(detector, stem=False), val_data)

    # Small boxes on small images: a 16 × 16 RoIAlign trains 2.5 times as fast, and a high rate serves a short run.
    set_seed(config.seed)  # the first weights, as in `train`
    model = MaskFrozenDetr.build(detector, MaskNetworkConfig(roi_size=16, mask_width=64))
    count = sum(p.numel() for p in model.network.parameters())
    print(f"3. Training a mask network of {count / 1e6:.1f} M parameters on it")
    training = TrainConfig(
        iterations=config.iterations,
        batch=config.batch,
        lr=2e-3,
        warmup=20,
        ema=0.98,
        log_every=5,
        seed=config.seed,
        masks_from=config.masks_from,
    )
    trained = train(model, train_data, val_data, output / "run", training, overwrite=True)
    assert trained is not None
    if hash_weights(detector.model) != before:
        raise RuntimeError("the frozen detector has changed")

    wall = picture_wall(MaskFrozenDetr.from_pretrained(output / "run", detector), val_data, WALL_ROWS)
    save_image_atomic(wall, wall_file)
    print(
        f"\nOn {len(val_data.images)} scenes that training never saw, in percent:\n"
        f"  box AP                        {trained.box['AP']:5.1f}   (the detector's own, unchanged)\n"
        f"  mask AP without training      {baseline.mask['AP']:5.1f}   (the paper's baseline, equations 3 and 4)\n"
        f"  mask AP with the mask network {trained.mask['AP']:5.1f}   "
        f"(small {trained.mask['APs']:.1f}, medium {trained.mask['APm']:.1f})\n"
        + (f"  ({trained.supervision})\n" if trained.supervision else "")
        + f"{time.perf_counter() - start:.0f} s in all. The picture wall: {output / WALL_FILE}, "
        + f"the run: {output / 'run'}"
    )
    return baseline, trained


def picture_wall(model: MaskFrozenDetr, data: CocoData, rows: int) -> Image.Image:
    """Image, boxes, masks and truth of the first `rows` images of `data`."""
    pictures = []
    for record in data.images[:rows]:
        image = read_image(record.path)
        instances = model.predict(image, WALL_SCORE)
        pictures.append(
            [
                image,
                draw_boxes(image, instances),
                draw_instances(image, instances),
                draw_truth(image, record, data.categories),
            ]
        )
    return draw_wall(pictures, ["image", "frozen boxes", "masks", "truth"])
