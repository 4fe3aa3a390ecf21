"""Presets: a mask network and how to train it, in one word.

Their figures, and what did not pay, are in docs/presets.md. What a preset gives are defaults: each option beside it
overrides its own field.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from mask_frozen_detr.errors import check_choice, check_number
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig

PresetName = Literal["light", "balanced", "best", "paper"]

HEAVY = 60.0  # GMACs an image: real-time detectors lie below, H-DETR and DINO at 800 pixels above
PASSES = 20  # over few images: fifty of COCO's learn best in 12 to 24, of easier scenes in more
MANY_IMAGES = 5000  # the paper's network has data enough to learn from


@dataclass(frozen=True)
class Preset:
    """A network and a training. least_seen: pictures that a run on hundreds of images sees at least.

    Fewer images are learned by heart: a run sees each some PASSES times then, and half of least_seen at least.
    """

    network: MaskNetworkConfig
    training: TrainConfig
    least_seen: int


# Few images teach best by every cell of a mask, at ten times the paper's rate, with a running mean.
_FEW_IMAGES = TrainConfig(
    lr=2e-3,
    cosine=True,
    warmup=50,
    ema=0.998,
    missed=True,
    loss=LossConfig(sampled_points=False, bce_weight=2.0),
)
_CONVNEXT = MaskNetworkConfig(
    image_encoder="convnext",
    image_layers=1,
    box_encoder="convnext",
    box_activation="relu",
    box_norm="batch",
    box_pyramid=True,
    roi_size=16,
    roi_samples=1,
    mask_scoring=False,
)

PRESETS: dict[PresetName, Preset] = {
    "light": Preset(replace(_CONVNEXT, mask_width=32), _FEW_IMAGES, 4800),
    "balanced": Preset(replace(_CONVNEXT, mask_width=64), _FEW_IMAGES, 4800),
    "best": Preset(
        MaskNetworkConfig(roi_size=16, mask_scoring=False),
        replace(_FEW_IMAGES, lr=1.5e-3, cosine=False, missed=False, augment=AugmentConfig(copy_paste=0.5)),
        6400,
    ),
    "paper": Preset(MaskNetworkConfig(), TrainConfig(), 0),
}


def preset(name: PresetName, images: int) -> tuple[MaskNetworkConfig, TrainConfig]:
    """The mask network and the training of a preset, for so many training images.

    Raises UserError for a name that is none, and for fewer than one image.
    """
    check_choice("preset", name, get_args(PresetName))
    check_number("images", images, 1, whole=True)
    chosen = PRESETS[name]
    seen = min(chosen.least_seen, max(chosen.least_seen / 2, PASSES * images))
    epochs = max(chosen.training.epochs, seen / images)
    return chosen.network, replace(chosen.training, epochs=epochs)


def choose_preset(detector_gmacs: float, images: int) -> tuple[PresetName, str]:
    """The preset for a detector of that cost an image and so many training images, and why, for the user."""
    cost = f"the detector takes {detector_gmacs:.3g} GMACs an image"
    if detector_gmacs < HEAVY:
        return "light", f"{cost}, and masks shall keep its pace"
    if images < MANY_IMAGES:
        return "balanced", f"{cost}, and {images} images are few for the paper's network"
    return "paper", f"{cost}, and {images} images are enough for the paper's network"


def preset_remark(name: PresetName, detector_gmacs: Callable[[], float], images: int) -> str:
    """What to know of a preset that was made for other detectors or data than these; "" where it suits.

    detector_gmacs: gives what the detector costs an image; only asked where that decides.
    """
    if name == "paper" and images < MANY_IMAGES:
        return f"{images} images are few for the paper's network and rate, best and balanced are made for them"
    gmacs = detector_gmacs()
    cost = f"this detector takes {gmacs:.3g} GMACs an image"
    if name == "light" and gmacs >= HEAVY:
        return f"{cost}, beside which balanced costs little more for better masks"
    if name != "light" and gmacs < HEAVY:
        return f"{cost}, and a hundred masks several times that; light keeps its pace"
    return ""
