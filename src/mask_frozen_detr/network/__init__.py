"""The mask network and its parts."""

from typing import TYPE_CHECKING

from mask_frozen_detr.machine.lazy import lazily

if TYPE_CHECKING:
    from mask_frozen_detr.network.config import MaskNetworkConfig, training_free
    from mask_frozen_detr.network.mask_network import MaskNetwork, MaskOutput

__all__ = ["MaskNetwork", "MaskNetworkConfig", "MaskOutput", "training_free"]

__getattr__ = lazily(
    __name__,
    {
        "MaskNetworkConfig": "config",
        "training_free": "config",
        "MaskNetwork": "mask_network",
        "MaskOutput": "mask_network",
    },
)
