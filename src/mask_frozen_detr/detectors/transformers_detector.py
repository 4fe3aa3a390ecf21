"""Frozen detectors from transformers: one class for all families, what differs stands in `families.py`.

Letters: B images, H_l × W_l level l, S = Σ H_l·W_l, d width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from mask_frozen_detr.detectors.base import Detections, DetectorInfo, FrozenDetector, Labels
from mask_frozen_detr.detectors.config import FineTune
from mask_frozen_detr.detectors.family import Family, Maps
from mask_frozen_detr.detectors.finer_look import FinerLook
from mask_frozen_detr.detectors.identity import hash_tensors
from mask_frozen_detr.detectors.prompt import Prompt
from mask_frozen_detr.detectors.transformers_attention import share_attention
from mask_frozen_detr.detectors.transformers_folder import SAFE
from mask_frozen_detr.detectors.transformers_preprocessing import TransformersPreprocessing
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.ops.padding import extents

DEFAULT_ENCODER_LAYER = 4  # Table 15


class Taken(dict[str, Any]):
    """What hooks keep during one forward pass. No plain dict: torch.export would put a copy into its place."""


@dataclass
class Tap:
    """A hook that keeps a module's output. Copied or pickled with its detector, it fills the copy's own `taken`."""

    taken: Taken
    name: str

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.taken[self.name] = output


class TransformersDetector(FrozenDetector):
    """A detector of transformers, with hooks where its outputs do not hand out the maps, and a faster attention.

    encoder_layer: counted from 1, the encoder layer whose maps are taken, where there are several; the last one of
    an encoder that has fewer.
    Raises UserError where the model has no module of a name that its family gives.
    """

    def __init__(
        self,
        model: nn.Module,
        info: DetectorInfo,
        family: Family,
        encoder_layer: int = DEFAULT_ENCODER_LAYER,
        prompt: Prompt | None = None,
    ):
        super().__init__(model, info)
        share_attention(model)
        self.family, self.prompt = family, prompt
        self._taken = Taken()
        self._levels = 0
        self.encoder_layer: int | None = None  # the one that was chosen, where there are several
        stem = family.stems.get(backbone_type(model.config), "")
        if stem and stem in dict(model.named_modules()):  # backbones of timm that are no ResNets have no layer1
            self._tap("stem", model.get_submodule(stem))
        if isinstance(family.features, Maps):
            self._tap("maps", self._module(family.features.module))
        else:
            layers = as_list(self._module(family.features.layers))
            chosen = min(encoder_layer, len(layers))
            self._tap("tokens", layers[chosen - 1])
            self.encoder_layer = chosen if len(layers) > 1 else None
            projections = as_list(self._module(family.features.projections))
            self._levels = len(projections)
            for level, projection in enumerate(projections):
                self._tap(f"level{level}", projection)

    def finer_look_problem(self) -> str:
        """Why this detector cannot look finer (`FrozenDetector.finer_look_problem`)."""
        if self.looks_finer:
            return ""
        if self.info.preprocessing.resizes_freely:
            return "it takes pictures of any size, so that a larger size in its pre-processing serves instead"
        if not self.family.backbone or not self._stages():
            return "its backbone does not run alone on pictures of any size"
        try:
            FinerLook(self.info.preprocessing)
        except ValueError as error:
            return f"its pre-processing has no larger size: {error}"
        return ""

    def with_finer_look(self, wanted: bool = True) -> FrozenDetector:
        """The detector with a finer look, or without (`FrozenDetector.with_finer_look`)."""
        other = super().with_finer_look(wanted)
        if wanted:
            for number, stage in enumerate(self._stages()):
                hooks = stage._forward_hooks.values()
                if not any(isinstance(hook, Tap) and hook.name == f"stage{number}" for hook in hooks):
                    self._tap(f"stage{number}", stage)
        return other

    def backbone_maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps of the backbone alone (`FrozenDetector.backbone_maps`)."""
        self._taken.clear()  # of a pass that failed
        self.model.get_submodule(self.family.backbone)(pixels)
        maps = [maps_of(output)[0] for name, output in self._taken.items() if name.startswith("stage")]
        self._taken.clear()
        return maps

    def _stages(self) -> list[nn.Module]:
        """The modules of the backbone whose maps are C₁, C₂, … ; none where they have no numbers."""
        first = re.fullmatch(r"(.*?)(\d+)", self.family.stems.get(backbone_type(self.model.config), ""))
        modules = dict(self.model.named_modules())
        paths = (f"{first[1]}{number}" for number in count(int(first[2]))) if first else iter(())
        return [modules[path] for path in takewhile(modules.__contains__, paths)]

    def _module(self, path: str) -> nn.Module:
        if path not in dict(self.model.named_modules()):
            raise UserError(
                f"{self.info.identity.name}: {type(self.model).__name__} has no module {path!r}, where family "
                f"{self.family.model_type!r} expects its maps; register_detector can give other names"
            )
        return self.model.get_submodule(path)

    def _tap(self, name: str, module: nn.Module) -> None:
        module.register_forward_hook(Tap(self._taken, name))

    def __getstate__(self) -> dict[str, Any]:
        """The state without the hooks that cannot be pickled: transformers' next forward pass puts them back."""
        for module in self.model.modules():
            vars(module).pop("_output_capturing_hooks_installed", None)
            for number, hook in list(module._forward_hooks.items()):
                if hook.__module__ == "transformers.utils.output_capturing":
                    del module._forward_hooks[number]
        return dict(vars(self))

    def detect(self, pixel_values: Tensor, pixel_mask: Tensor | None, targets: Labels | None = None) -> Detections:
        """The detections of a batch (`FrozenDetector.forward`).

        A model that knows no padding sees images of different sizes one by one.
        """
        if pixel_mask is None or self.family.takes_mask or bool((pixel_mask == 1).all()):
            return self._run(pixel_values, pixel_mask, targets)
        sizes = extents(pixel_mask).tolist()
        return join(
            [
                self._run(image[None, :, :height, :width], mask[None, :height, :width], targets and targets[b : b + 1])
                for b, (image, mask, (width, height)) in enumerate(zip(pixel_values, pixel_mask, sizes, strict=True))
            ]
        )

    def _run(self, pixel_values: Tensor, pixel_mask: Tensor | None, targets: Labels | None) -> Detections:
        inputs: dict[str, Any] = {"pixel_values": pixel_values}
        if self.family.takes_mask and pixel_mask is not None:
            inputs["pixel_mask"] = send(pixel_mask, pixel_values.device)
        if self.prompt is not None:
            inputs |= self.prompt.inputs(len(pixel_values))
        if targets is not None:
            inputs["labels"] = [dict(target) for target in targets]
        self._taken.clear()  # of a pass that failed
        output = self.model(**inputs)
        queries, logits, boxes = self.family.read(output)
        if self.prompt is not None:
            logits = self.prompt.class_logits(logits)
        features = self._features()
        stem = maps_of(self._taken["stem"])[0] if "stem" in self._taken else None
        self._taken.clear()
        if stem is not None and not features[0].shape[3] <= stem.shape[3] <= -(-pixel_values.shape[3] // 4):
            stem = None  # coarser than E₁, or finer than stride 4
        return Detections(queries, logits, boxes, features, stem, loss=None if targets is None else output.loss)

    def unfreeze(self, part: FineTune) -> list[nn.Parameter]:
        """Lets parts of the detector learn (`FrozenDetector.unfreeze`).

        Raises UserError for a family that transformers gives no losses for.
        """
        if part != "none" and not self.family.has_loss:
            raise UserError(
                f"finetune: found {part!r}, but transformers has no training losses for family "
                f"{self.family.model_type!r}; expected 'none'"
            )
        return super().unfreeze(part)

    def save(self, folder: Path) -> None:
        """Configuration, weights, image processor and tokenizer, as `from_pretrained` reads them."""
        config: Any = self.model.config
        config.save_pretrained(folder)
        # Not the model's own `save_pretrained`: it leaves out weights that it takes for shared ones.
        save_file(self._checkpoint(), folder / SAFE, metadata={"format": "pt"})
        preprocessing = self.info.preprocessing
        looked = preprocessing.look if isinstance(preprocessing, FinerLook) else preprocessing
        assert isinstance(looked, TransformersPreprocessing)
        looked.processor.save_pretrained(folder)
        if self.prompt is not None:
            self.prompt.tokenizer.save_pretrained(folder)

    @property
    def knows_padding(self) -> bool:
        return self.family.takes_mask

    @property
    def transformer_parts(self) -> tuple[str, ...]:
        return self.family.transformer

    def hash_checkpoint(self) -> str:
        """A hash of the files that hold the weights (`FrozenDetector.hash_checkpoint`)."""
        return hash_tensors(self._checkpoint())

    def _checkpoint(self) -> dict[str, Tensor]:
        """All weights by their names in files, which are the same in every version of transformers."""
        weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        return {
            name: value.contiguous()
            for name, value in revert_weight_conversion(cast(PreTrainedModel, self.model), weights).items()
        }

    def _features(self) -> list[Tensor]:
        """(B, d, H_l, W_l) maps, finest first."""
        if isinstance(self.family.features, Maps):
            return sorted(maps_of(self._taken["maps"]), key=lambda level: -level.shape[3])
        shapes = [tuple(self._taken[f"level{level}"].shape[2:]) for level in range(self._levels)]
        sizes = [height * width for height, width in shapes]
        tokens = first_tensor(self._taken["tokens"])[:, self.family.features.skip :]
        pieces = tokens[:, : sum(sizes)].transpose(1, 2).split(sizes, dim=2)  # (B, d, H_l·W_l) each
        return [piece.unflatten(2, shape) for piece, shape in zip(pieces, shapes, strict=True)]


def backbone_type(config: Any) -> str:
    """Model type of the backbone within a detector's configuration, or of the detector that is its own backbone."""
    backbone = config.to_dict().get("backbone_config")
    return config.model_type if backbone is None else backbone["model_type"]


def as_list(module: nn.Module) -> list[nn.Module]:
    """The modules of a list; a module alone is a list of one."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def first_tensor(output: Any) -> Tensor:
    """A layer's main output, however deep in tuples."""
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def maps_of(output: Any) -> list[Tensor]:
    """The (B, C, h, w) maps in a module's output: itself, or the first list of maps in it."""
    if isinstance(output, Tensor):
        return [output]
    values = list(output.values()) if isinstance(output, dict) else list(output)
    for value in values:
        if isinstance(value, Tensor) and value.ndim == 4:
            return [other for other in values if isinstance(other, Tensor) and other.ndim == 4]
        if isinstance(value, list | tuple):
            return maps_of(value)
    raise TypeError(f"no maps among {[type(value).__name__ for value in values]}")


def join(alone: Sequence[Detections]) -> Detections:
    """Detections of images of different sizes as one batch, their maps zero-padded at the right and bottom."""

    def pad(maps: Sequence[Tensor]) -> Tensor:
        height, width = (max(one.shape[side] for one in maps) for side in (2, 3))
        return torch.cat([F.pad(one, (0, width - one.shape[3], 0, height - one.shape[2])) for one in maps])

    stems = [one.stem for one in alone if one.stem is not None]
    stages = zip(*(one.stages for one in alone), strict=True)
    losses = [one.loss for one in alone if one.loss is not None]
    return Detections(
        queries=torch.cat([one.queries for one in alone]),
        logits=torch.cat([one.logits for one in alone]),
        boxes=torch.cat([one.boxes for one in alone]),
        features=[pad(level) for level in zip(*(one.features for one in alone), strict=True)],
        stem=pad(stems) if stems else None,
        loss=torch.stack(losses).mean() if losses else None,
        stages=[pad(stage) for stage in stages],
    )
