"""COCO-format data: reading, checking, augmenting."""
