"""Options of data, apart from what reads them: what prints help need not load it."""

from typing import Literal

Format = Literal["coco", "yolo", "labelme", "voc", "panoptic", "via", "label-studio", "cvat"]
