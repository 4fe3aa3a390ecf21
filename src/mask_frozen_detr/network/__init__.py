"""The mask network and its parts."""

from mask_frozen_detr.network.config import MaskNetworkConfig, training_free
from mask_frozen_detr.network.mask_network import MaskNetwork, MaskOutput

__all__ = ["MaskNetwork", "MaskNetworkConfig", "MaskOutput", "training_free"]
