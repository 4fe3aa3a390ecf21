"""Ellipses and circles of labelling tools, which are polygons here."""

import math

SIDES = 64  # of the polygon that stands for one


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[float]:
    """The outline x, y, x, y … of the ellipse around x, y with radii rx, ry. turn: clockwise, in radians."""
    outline = []
    for side in range(SIDES):
        angle = 2 * math.pi * side / SIDES
        right, down = rx * math.cos(angle), ry * math.sin(angle)
        outline.append(x + right * math.cos(turn) - down * math.sin(turn))
        outline.append(y + right * math.sin(turn) + down * math.cos(turn))
    return outline
