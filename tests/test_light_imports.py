"""What runs an exported model needs numpy and Pillow, and no other package."""

import subprocess
import sys

HEAVY = ("torch", "torchvision", "transformers", "accelerate", "pycocotools", "scipy", "safetensors", "huggingface_hub")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"  # None: an import of it fails
LIGHT = """
import numpy as np
from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.inputs import to_picture
from mask_frozen_detr.results.assemble import assemble

picture = to_picture(np.zeros((6, 8, 3), np.uint8))
box = np.array([[1, 1, 5, 5]], np.float32)
found = assemble(
    box, np.array([0.5], np.float32), np.array([0]), np.ones((1, 4, 4), np.float32), box, np.array([0]), None, (6, 8),
    ["cat"],
)
print(found.summary(), found.to_rle()[0]["counts"], found.to_polygons()[0][0].tolist())
"""


def test_instances_are_made_without_heavy_packages():
    done = subprocess.run([sys.executable, "-c", BLOCKED + LIGHT], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    # As pycocotools writes ones in rows and columns 1 to 4 of 6 × 8 pixels.
    assert done.stdout == "1 cat 74200000a0 [[1, 1], [5, 1], [5, 5], [1, 5]]\n"
