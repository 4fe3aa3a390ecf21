"""What `predict` found in the formats of other tools, a file each; `write` writes those that are asked for."""
