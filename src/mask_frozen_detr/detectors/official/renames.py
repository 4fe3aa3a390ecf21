"""Our names of parameters → those of official checkpoints, a table a family and one a backbone.

Patterns are tried once each, in their order. Everything that no table names has the official name already.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mask_frozen_detr.detectors.official.config import OfficialConfig
from mask_frozen_detr.errors import UserError, shorten

DINO = {
    r"^content\.": "transformer.tgt_embed.",
    r"^proposal_class\.": "transformer.enc_out_class_embed.",
    r"^proposal_box\.": "transformer.enc_out_bbox_embed.",
}
DEFORMABLE_DETR = {
    r"^content\.": "query_embed.",
    # {last}: the proposals' head stands after those of the decoder layers.
    r"^proposal_class\.": "class_embed.{last}.",
    r"^proposal_box\.": "bbox_embed.{last}.",
}
RESNET = {r"^backbone\.(body\.)?": "backbone.0."}
SWIN = {
    r"\.body\.swin\.embeddings\.patch_embeddings\.projection\.": ".body.patch_embed.proj.",
    r"\.body\.swin\.embeddings\.norm\.": ".body.patch_embed.norm.",
    r"\.body\.swin\.encoder\.": ".body.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.attention\.relative_position_bias\.": ".attn.",
    r"\.attention\.o_proj\.": ".attn.proj.",
    r"\.attention\.[qkv]_proj\.": ".attn.qkv.",
    # Stage norms are numbered from 1 in transformers' Swin.
    **{rf"\.hidden_states_norms\.stage{stage + 1}\.": f".norm{stage}." for stage in range(4)},
    **RESNET,
}
FOCALNET = {
    r"\.body\.embeddings\.patch_embeddings\.projection\.": ".body.patch_embed.proj.",
    r"\.body\.embeddings\.norm\.": ".body.patch_embed.norm.",
    r"\.body\.encoder\.stages\.(\d+)\.layers\.": r".body.layers.\1.blocks.",
    r"\.body\.encoder\.stages\.": ".body.layers.",
    r"\.downsample\.projection\.": ".downsample.proj.",
    r"\.projection_in\.": ".f.",
    r"\.projection_context\.": ".h.",
    r"\.projection_out\.": ".proj.",
    # Ours are numbered from the first stage that is read, {norm0} …
    **{rf"^backbone\.norms\.{stage}\.": f"backbone.norm{{norm{stage}}}." for stage in range(4)},
    **RESNET,
}
OF_FAMILY = {"dino": DINO, "deformable-detr": DEFORMABLE_DETR, "h-deformable-detr": DEFORMABLE_DETR}
OF_BACKBONE = {"resnet": RESNET, "swin": SWIN, "focalnet": FOCALNET}


def official_name(key: str, config: OfficialConfig) -> str:
    """Our name of a parameter or buffer → the checkpoint's, with `backbone.0.` for either backbone prefix."""
    names = OF_BACKBONE[config.backbone.kind] if key.startswith("backbone.") else OF_FAMILY[config.family]
    numbers = {f"norm{stage}": stage + config.backbone.first_stage for stage in range(4)}
    for pattern, official in names.items():
        key = re.sub(pattern, official.format(last=config.decoder_layers, **numbers), key)
    return key


def ignored(key: str, config: OfficialConfig) -> bool:
    """Keys of a checkpoint that inference has no use for."""
    return (
        re.match(r"transformer\.decoder\.(class|bbox)_embed\.", key) is not None  # the heads once more
        or (key == "label_enc.weight" and config.family == "dino")  # denoising, in training only
        or key.endswith((".relative_position_index", ".num_batches_tracked"))
    )


def model_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], config: OfficialConfig, source: str
) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, every one of `model`'s and nothing else.

    Raises UserError that lists keys missing, left over, or of another shape.
    """
    official = {re.sub(r"^backbone\.0\.body\.", "backbone.0.", key): key for key in tensors}
    found, missing, misshapen, used = {}, [], [], set()
    for ours, expected in model.state_dict().items():
        name = official_name(ours, config)
        if name not in official:
            missing.append(name)
            continue
        tensor = tensors[official[name]]
        used.add(official[name])
        if part := re.search(r"\.attention\.([qkv])_proj\.", ours):
            tensor = tensor.chunk(3)["qkv".index(part[1])]
        if tensor.shape != expected.shape:
            misshapen.append(f"{official[name]} is {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
        found[ours] = tensor
    left = [key for key in tensors if key not in used and not ignored(key, config)]
    problems = [
        f"{what}: {shorten(dict.fromkeys(keys))}"
        for what, keys in (("missing", missing), ("not known", left), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise UserError(f"checkpoint {source} does not fit the detector that its keys describe. " + "; ".join(problems))
    return found


def official_tensors(tensors: Mapping[str, Tensor], config: OfficialConfig) -> dict[str, Tensor]:
    """Our model's state as the checkpoint has it: the way back from `model_tensors`."""
    pieces: dict[str, list[Tensor]] = {}
    for ours, tensor in tensors.items():
        pieces.setdefault(official_name(ours, config), []).append(tensor.detach().cpu())
    # Several of ours are one of theirs where queries, keys and values come from one matrix.
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0].clone() for name, parts in pieces.items()}
