"""`mask-frozen-detr convert`: an official checkpoint as a folder of safetensors, configuration and class names.

The folder holds what inference needs and nothing else (no optimizer, no denoising labels), under the official names,
and `load_official` takes it in the file's stead.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mask_frozen_detr.detectors.official.checkpoint import write_folder
from mask_frozen_detr.detectors.official.detector import read_named
from mask_frozen_detr.detectors.official.model import OfficialDetr
from mask_frozen_detr.detectors.official.renames import ignored, model_tensors
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_folder_atomic


def convert_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    half: bool = False,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    num_queries: int | None = None,
) -> Path:
    """Writes `folder`, all of it or nothing, and returns its path.

    half: matrices and kernels in float16, half the size; they are read back as float32.
    name, class_names, num_queries: as in `load_official`.
    Raises UserError as `load_official` does, and where the folder exists and is not empty.
    """
    folder, source = Path(folder), str(checkpoint)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder {folder}: exists and is not empty; expected a new one")
    content, config, names = read_named(checkpoint, name, class_names, num_queries)
    with torch.device("meta"):
        model_tensors(OfficialDetr(config), content.tensors, config, source)  # raises where they do not fit
    tensors = {key: stored(tensor, half) for key, tensor in content.tensors.items() if not ignored(key, config)}
    write_folder_atomic(folder, lambda part: write_folder(part, tensors, config, names, Path(checkpoint).name, half))
    return folder


def stored(tensor: Tensor, half: bool) -> Tensor:
    """A copy for the file. Vectors (norms, biases, statistics) and what float16 cannot hold stay as they are."""
    if half and tensor.ndim > 1 and tensor.is_floating_point():
        halved = tensor.half()
        if halved.isfinite().all():
            return halved.contiguous()
    return tensor.clone(memory_format=torch.contiguous_format)
