"""Frames of a film as players show them: phones store what their sensor saw, and a matrix that turns or mirrors it."""

import struct
from typing import Any

from PIL import Image

# From (a, b, c, d), signs of a display matrix that takes the point (x, y), from the left and the top, to
# (a·x + c·y, b·x + d·y), ISO/IEC 14496-12, 6.2.2.
TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # clockwise by 90°: a phone held upright
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
NUMBERS = struct.Struct("=9i")


def upright(frame: Any) -> Image.Image:
    """A frame of PyAV as a picture. What is turned by no multiple of 90° stays as it is stored."""
    picture = frame.to_image()
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or len(content := bytes(matrix)) < NUMBERS.size:
        return picture
    a, b, _, c, d, *_ = (max(-1, min(1, number)) for number in NUMBERS.unpack_from(content))
    turn = TURNS.get((a, b, c, d))
    return picture if turn is None else picture.transpose(turn)
