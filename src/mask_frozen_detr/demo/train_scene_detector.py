"""Trains the tiny RT-DETR that ships with the package, from random weights on scenes rendered as it goes.

    python -m mask_frozen_detr.demo.train_scene_detector --output FOLDER

It stands in for the pre-trained detector the paper freezes, so that all of the project can be tried offline.
No scene is seen twice and none is one of `render_scenes`. One CPU thread is enough.
Letters: B images, Q queries.
"""

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

from mask_frozen_detr.demo.scenes import CLASSES, render_scene
from mask_frozen_detr.errors import UserError

SIDE = 192  # images are squashed to a square of this side, pixels
SAVE_EVERY = 200  # steps between two checkpoints
TRAINING_STREAM, HELD_OUT_STREAM = 2, 3  # second number of a scene's seed; `render_scenes` uses 0 and 1


@dataclass(frozen=True)
class Schedule:
    """The training's every choice; lies in TRAINING.json beside the weights."""

    seed: int = 0
    steps: int = 5500
    batch: int = 8  # scenes a step
    rate: float = 1e-3  # peak, AdamW; cosine to `rate` / 100
    warmup: int = 200  # steps
    decay: float = 1e-4  # weight decay of matrices and kernels; norms and biases have none
    clip: float = 1.0  # of the gradient's norm
    average: float = 0.998  # of the exponential moving average that is kept, after a ramp
    held_out: int = 300  # scenes for the box AP


def detector_config() -> RTDetrConfig:
    """RT-DETR with strides 8, 16 and 32 and a stride-4 first stage, a million parameters in all."""
    backbone: dict[str, Any] = {
        "embedding_size": 32,  # the basic block asks for the same width as the first stage's
        "hidden_sizes": [32, 56, 96, 112],
        "depths": [1, 2, 2, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    }
    names = dict(enumerate(CLASSES))
    return RTDetrConfig(
        backbone_config=RTDetrResNetConfig(**backbone),
        freeze_backbone_batch_norms=False,  # nothing is pre-trained here
        encoder_hidden_dim=64,
        encoder_in_channels=[56, 96, 112],
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=64,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_layers=3,
        decoder_attention_heads=4,
        num_queries=60,
        num_denoising=32,
        weight_loss_vfl=3.0,  # the boxes come by themselves here, the kinds of shape are what takes long
        id2label=names,
        label2id={name: k for k, name in names.items()},
    )


def build_detector(seed: int) -> RTDetrForObjectDetection:
    """The detector with random weights.

    transformers draws RT-DETR's weights as if a checkpoint were to replace them: batch-norm scales near 0,
    every matrix with a deviation of 0.01. Xavier and Kaiming, as for the original, take their place.
    """
    torch.manual_seed(seed)
    model = RTDetrForObjectDetection(detector_config())
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear) and not any(
            kept in name for kept in ("sampling_offsets", "attention_weights", "class_embed", "score_head")
        ):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for head in (model.model.enc_bbox_head, *model.model.decoder.bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)  # boxes start at their reference points
    return model


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image → (3, SIDE, SIDE) in [0, 1], as the saved image processor does."""
    squashed = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(squashed / 255).permute(2, 0, 1)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(H, W) bool mask → left, top, right, bottom of the pixels' outer edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def training_batch(seed: int, step: int, batch: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """One step's scenes: (B, 3, SIDE, SIDE) pixels, and each one's classes and boxes (cx, cy, w, h)."""
    pixels, labels = [], []
    for index in range(step * batch, (step + 1) * batch):
        image, objects = render_scene((seed, TRAINING_STREAM, index))
        corners = torch.tensor([mask_box(mask) for _, mask in objects], dtype=torch.float32).reshape(-1, 4)
        corners /= torch.tensor([image.width, image.height] * 2)
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        pixels.append(to_pixels(image))
        labels.append({"class_labels": torch.tensor([kind for kind, _ in objects], dtype=torch.long), "boxes": boxes})
    return torch.stack(pixels), labels


def evaluate_boxes(
    model: RTDetrForObjectDetection, processor: RTDetrImageProcessor, seed: int, scenes: int
) -> dict[str, float]:
    """COCO's box AP in [0, 1] on held-out scenes; sizes split at 32² and 96² visible pixels."""
    model.eval()
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    for number in range(1, scenes + 1):
        image, objects = render_scene((seed, HELD_OUT_STREAM, number - 1))
        images.append({"id": number, "width": image.width, "height": image.height})
        for kind, mask in objects:
            of_mask = {"id": len(annotations) + 1, "area": int(mask.sum()), "iscrowd": 0}
            annotations.append(box_entry(number, kind, mask_box(mask)) | of_mask)
        with torch.no_grad():
            outputs = model(**processor(images=image, return_tensors="pt"))
        sizes = torch.tensor([[image.height, image.width]])
        found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)[0]
        for score, kind, box in zip(*(found[key].tolist() for key in ("scores", "labels", "boxes")), strict=True):
            results.append(box_entry(number, kind, box) | {"score": score})
    return score_boxes(images, annotations, results)


def box_entry(image: int, kind: int, corners: Sequence[float]) -> dict[str, Any]:
    """What COCO's annotations and results share."""
    left, top, right, bottom = corners
    return {"image_id": image, "category_id": kind, "bbox": [left, top, right - left, bottom - top]}


def score_boxes(images: list[dict], annotations: list[dict], results: list[dict]) -> dict[str, float]:
    """pycocotools' figures."""
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
    }
    truth.createIndex()
    judge = COCOeval(truth, truth.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    names = {"AP": 0, "AP50": 1, "AP75": 2, "AP_small": 3, "AP_medium": 4, "AP_large": 5}
    return {name: round(float(judge.stats[k]), 4) for name, k in names.items()}


def rate_at(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, decay: float) -> list[dict]:
    """Weight decay for what has two dimensions or more, none for norms and biases."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """The moving average takes one step towards the model; batch-norm statistics come along."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


class Training:
    """All that a training is at some step; a checkpoint holds it whole.

    minutes: of processor time so far.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.model = build_detector(schedule.seed)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, schedule.decay), lr=schedule.rate)
        self.step, self.minutes = 0, 0.0

    def load(self, checkpoint: Path) -> None:
        """Raises UserError where the checkpoint belongs to another schedule."""
        state = torch.load(checkpoint, weights_only=True)
        expected = asdict(self.schedule)
        if state["schedule"] != expected:
            raise UserError(f"{checkpoint}: belongs to the schedule {state['schedule']}, expected {expected}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.minutes = state["step"], state["minutes"]

    def save(self, checkpoint: Path) -> None:
        state = {
            "schedule": asdict(self.schedule),
            "step": self.step,
            "minutes": self.minutes,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(checkpoint)

    def advance(self) -> float:
        """One step; returns its loss. Raises FloatingPointError for one that is not finite."""
        schedule, step = self.schedule, self.step
        pixels, labels = training_batch(schedule.seed, step, schedule.batch)
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # the denoising queries' noise
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(schedule, step)
        loss = self.model(pixel_values=pixels, labels=labels).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"step {step}: the loss is {loss.item()}")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip)
        self.optimizer.step()
        update_average(self.average, self.model, min(schedule.average, (1 + step) / (10 + step)))
        self.step += 1
        return loss.item()


def train(
    schedule: Schedule, checkpoint: Path | None = None, log_every: int = 50
) -> tuple[RTDetrForObjectDetection, float]:
    """Trains and returns the averaged detector and the minutes of processor time it took.

    Where `checkpoint` exists the run goes on from it and ends as it would have without the break.
    """
    training = Training(schedule)
    if checkpoint and checkpoint.exists():
        training.load(checkpoint)
    training.model.train()
    start = time.process_time() - training.minutes * 60
    losses: list[float] = []
    while training.step < schedule.steps:
        losses.append(training.advance())
        step, training.minutes = training.step, (time.process_time() - start) / 60
        if step % log_every == 0:
            spent = f"{training.minutes:.1f} CPU min"
            print(f"step {step}/{schedule.steps}  loss {np.mean(losses):.3f}  {spent}", flush=True)
            losses.clear()
        if checkpoint and (step % SAVE_EVERY == 0 or step == schedule.steps):
            training.save(checkpoint)
    return training.average, training.minutes


def save(model: RTDetrForObjectDetection, folder: Path) -> tuple[RTDetrForObjectDetection, RTDetrImageProcessor]:
    """Writes weights, configuration and image processor to `folder` and returns both as read back from there.

    The file holds half precision, to be small; the configuration says float32, in which a reload computes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    reloaded = RTDetrForObjectDetection.from_pretrained(folder).eval()
    return reloaded, RTDetrImageProcessor.from_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(description="Train the tiny RT-DETR for synthetic scenes on one CPU thread.")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, processor and TRAINING.json")
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--seed", type=int, default=Schedule.seed)
    parser.add_argument("--checkpoint", type=Path, help="file to keep the run's state in, and to go on from")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    schedule = Schedule(seed=options.seed, steps=options.steps)
    model, minutes = train(schedule, options.checkpoint)
    reloaded, processor = save(model, options.output)
    figures = evaluate_boxes(reloaded, processor, schedule.seed, schedule.held_out)
    record = {
        "command": f"python -m mask_frozen_detr.demo.train_scene_detector --output {options.output.name} "
        f"--steps {schedule.steps} --seed {schedule.seed}",
        "schedule": asdict(schedule),
        "images_seen": schedule.steps * schedule.batch,
        "processor_minutes": round(minutes, 1),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in reloaded.parameters()),
        "box": figures,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (options.output / "TRAINING.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
