"""What an official checkpoint's keys and shapes say: which detector it is, and which tensor belongs where.

Everything outside the backbones bears the official names but for the few in `official_name`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mask_frozen_detr.detectors.official.config import BackboneConfig, OfficialConfig, deformable_detr, dino
from mask_frozen_detr.errors import UserError, shorten

# Rows of H-Deformable-DETR's `query_embed` → one-to-one queries among them, where the file's `args` do not say.
ONE_TO_ONE = {300: 300, 1800: 300, 2400: 900}

# A key that only the layout named has.
FOREIGN = {
    r"^bbox_head\.": "mmdet's layout",
    r"^transformer\..*\.attentions\.0\.": "detrex's layout",
    r"^model\.(backbone|encoder|decoder)\.": "transformers' layout (pass the model's folder or hub name instead)",
    r"^transformer\.reference_points\.": "a single-stage Deformable DETR",
    r"^transformer\.encoder\.layers\.0\.self_attn\.in_proj_weight$": "the original DETR",
    r"^backbone\.0\.downsample_layers\.": "a ConvNeXt backbone",
}

# Options of the training that change the outputs and leave no trace in the keys: the one value that is supported.
EXPECTED_ARGS = {"dilation": False, "transformer_activation": "relu", "position_embedding": "sine"}


def infer_config(
    tensors: Mapping[str, Tensor], args: Mapping[str, Any], source: str, num_queries: int | None = None
) -> OfficialConfig:
    """The configuration that fits the keys and shapes; `args`, where the file has them, tell what shapes cannot.

    num_queries: for a file that does not say how many of its queries serve inference.
    Raises UserError, naming `source`, for another project's layout and where something needed is missing.
    """
    check_supported(tensors, args, source)

    def shape(key: str, dimensions: int = 2) -> torch.Size:
        if key not in tensors:
            raise UserError(
                f"checkpoint {source}: key {key!r} is missing (found {shorten(tensors)}); expected the official layout "
                "of H-Deformable-DETR, DINO or two-stage Deformable DETR"
            )
        if tensors[key].ndim != dimensions:
            raise UserError(f"checkpoint {source}: {key!r} has {tensors[key].ndim} dimensions, expected {dimensions}")
        return tensors[key].shape

    levels, width = shape("transformer.level_embed")
    kernels = [shape(f"input_proj.{level}.0.weight", 4)[-1] for level in range(count(tensors, r"^input_proj\.(\d+)\."))]
    if kernels.count(1) not in (3, 4):
        raise UserError(
            f"checkpoint {source}: {kernels.count(1)} of its 'input_proj' are 1 × 1, for as many backbone stages; "
            "expected 3 or 4"
        )
    heads = int(args.get("nheads", 8))
    samples = shape("transformer.encoder.layers.0.self_attn.attention_weights.weight")[0]
    common: dict[str, Any] = {
        "backbone": infer_backbone(tensors, shape, source, first_stage=4 - kernels.count(1)),
        "num_classes": shape("class_embed.0.weight")[0],
        "levels": levels,
        "width": width,
        "heads": heads,
        "points": samples // (heads * levels),
        "ffn": shape("transformer.encoder.layers.0.linear1.weight")[0],
        "encoder_layers": count(tensors, r"^transformer\.encoder\.layers\.(\d+)\."),
        "decoder_layers": count(tensors, r"^transformer\.decoder\.layers\.(\d+)\."),
    }
    if "transformer.pos_trans.weight" in tensors:
        rows = shape("query_embed.weight")[0] if "query_embed.weight" in tensors else 0
        return deformable_detr(
            num_queries=one_to_one(rows, args, source, num_queries),
            content_rows=rows,
            look_forward_twice=args.get("look_forward_twice"),
            **common,
        )
    if num_queries is not None:
        raise UserError(f"num_queries: found {num_queries}, but a DINO checkpoint says itself how many it has")
    temperatures = {float(args.get(f"pe_temperature{axis}", 20)) for axis in "HW"}
    if len(temperatures) > 1:
        raise UserError(
            f"checkpoint {source}: trained with two temperatures of the position encoding; expected one for both axes"
        )
    return dino(
        num_queries=shape("transformer.tgt_embed.weight")[0],
        shared_heads=heads_agree(tensors),
        temperature=temperatures.pop(),
        **common,
    )


def check_supported(tensors: Mapping[str, Tensor], args: Mapping[str, Any], source: str) -> None:
    """Raises UserError for the layout of another project, and for training with options that change the outputs."""
    for pattern, layout in FOREIGN.items():
        if key := next((key for key in tensors if re.search(pattern, key)), None):
            raise UserError(
                f"checkpoint {source}: this is {layout} (key {key!r}), which is not supported; expected the official "
                "layout of H-Deformable-DETR, DINO or two-stage Deformable DETR"
            )
    for name, expected in EXPECTED_ARGS.items():
        if name in args and args[name] != expected:
            raise UserError(
                f"checkpoint {source}: trained with {name} = {args[name]!r}; only {expected!r} is supported"
            )


def one_to_one(rows: int, args: Mapping[str, Any], source: str, asked: int | None) -> int:
    """How many queries serve inference, of `rows` learned ones (0: the file does not say at all)."""
    known = args.get("num_queries_one2one", args.get("num_queries") if rows == 0 else None)
    if asked is not None:
        known = asked
    found = ONE_TO_ONE.get(rows or 300) if known is None else int(known)
    if found is None or found < 1 or (rows and found > rows):
        raise UserError(
            f"checkpoint {source}: its {rows} learned queries do not tell how many serve inference; expected "
            f"{shorten(ONE_TO_ONE)} rows, or num_queries from 1 to {rows} (found {known})"
        )
    return found


def heads_agree(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all decoder layers have the same class and box head; true where there are shapes but no values."""
    for key, tensor in tensors.items():
        if head := re.match(r"(class|bbox)_embed\.\d+\.", key):
            first = tensors.get(f"{head[1]}_embed.0.{key.removeprefix(head[0])}", tensor)
            if tensor.device.type != "meta" and not torch.equal(first, tensor):
                return False
    return True


def infer_backbone(
    tensors: Mapping[str, Tensor], shape: Callable[..., torch.Size], source: str, first_stage: int
) -> BackboneConfig:
    """ResNet, Swin or FocalNet, from the keys under `backbone.0.`. Raises UserError for any other."""
    keys = [key for key in tensors if key.startswith("backbone.0.")]
    prefix = "backbone.0.body." if all(key.startswith("backbone.0.body.") for key in keys) else "backbone.0."
    depths = tuple(count(keys, rf"\.layer{stage}\.(\d+)\.") for stage in range(1, 5))
    if all(depths):
        return BackboneConfig("resnet", depths, first_stage=first_stage)
    depths = tuple(count(keys, rf"\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
    focal_levels = count(keys, r"\.layers\.0\.blocks\.0\.modulation\.focal_layers\.(\d+)\.")
    if all(depths) and focal_levels:
        return BackboneConfig(
            "focalnet",
            depths,
            width=shape(f"{prefix}patch_embed.proj.weight", 4)[0],
            window=shape(f"{prefix}layers.0.blocks.0.modulation.focal_layers.0.0.weight", 4)[-1],
            focal_levels=focal_levels,
            normalize_modulator=focal_levels == 4,  # no key tells; so it is in all L and XL models
            first_stage=first_stage,
        )
    if all(depths) and any(".attn.relative_position_bias_table" in key for key in keys):
        tables = [
            shape(f"{prefix}layers.{stage}.blocks.0.attn.relative_position_bias_table") for stage in range(4)
        ]  # ((2 · window - 1)², heads)
        return BackboneConfig(
            "swin",
            depths,
            width=shape(f"{prefix}patch_embed.proj.weight", 4)[0],
            heads=tuple(heads for _, heads in tables),
            window=(round(tables[0][0] ** 0.5) + 1) // 2,
            first_stage=first_stage,
        )
    raise UserError(
        f"checkpoint {source}: unknown backbone (keys {shorten(keys)}); expected a ResNet of bottleneck blocks, "
        "a Swin or a FocalNet under 'backbone.0.'"
    )


def count(keys: Iterable[str], pattern: str) -> int:
    """How many different numbers stand where the pattern's group is."""
    return len({match[1] for key in keys if (match := re.search(pattern, key))})
