"""The mask network's weights in a run folder, with a checksum."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.files import write_bytes_atomic
from mask_frozen_detr.machine.regular_files import check_regular, read_regular
from mask_frozen_detr.network import MaskNetwork
from mask_frozen_detr.run.description import CONFIG_FILE, WEIGHTS_FILE, RunConfig


def save_network_weights(network: nn.Module, path: Path) -> str:
    """Returns the sha256 of what it has written."""
    data = save({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()})
    write_bytes_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_network_weights(network: nn.Module, path: Path, checksum: str | None = None) -> None:
    """Raises UserError where the file is missing, damaged or of another network.

    checksum: the sha256 that it must have; None: of a run that did not note it.
    """
    try:
        data = read_regular(path)
        if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
            raise UserError(
                f"{path}: the mask network's weights are damaged: the file is not what was written (sha256 expected: "
                f"{checksum[:12]}…); copy it anew, or train the run anew"
            )
        state = load(data)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the mask network's weights are missing") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the mask network's weights cannot be read: {reason(error)}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: the weights are of another mask network: {printable(str(error).splitlines()[-1].strip())}"
        ) from error


def load_network(saved: RunConfig, folder: Path) -> MaskNetwork:
    """The mask network of a run folder, whose sizes are compared with its file of weights before they take memory.

    Raises UserError as `load_network_weights`, and where the description asks for what the weights cannot be.
    """
    path = folder / WEIGHTS_FILE
    check_regular(path)
    try:
        size = path.stat().st_size if path.exists() else None
        with torch.device("meta"):
            asked = 4 * sum(parameter.numel() for parameter in MaskNetwork(saved.network, saved.shapes).parameters())
    except (ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{folder / CONFIG_FILE}: is damaged: its parts do not go together: {reason(error)}") from error
    if size is not None and not asked / 2 <= size <= 2 * asked + 1_000_000:
        raise UserError(
            f"{path}: the weights are of another mask network, or cannot be read: found {size:,} bytes, expected about "
            f"{asked:,} as {CONFIG_FILE} describes it"
        )
    network = MaskNetwork(saved.network, saved.shapes)
    load_network_weights(network, path, saved.checksum)
    return network.eval()
