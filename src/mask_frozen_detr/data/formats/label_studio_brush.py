"""Label Studio's run lengths of brush masks, as its editor writes them: a picture's RGBA bytes, packed bit by bit.

A head of 32 bits says how many words follow, 5 bits the width of a word less 1, four times 4 bits the widths of four
sorts of lengths less 1. Then blocks: a bit, 2 bits for the sort of its length, the length less 1; after a 1 a word that
stands so many times, after a 0 so many words. (`thi.ng/rle-pack`, which the editor uses.)
"""

import numpy as np

from mask_frozen_detr.data.validation import Broken

WORD = 8  # bits of a channel, which is what the editor packs


class _Bits:
    """Numbers from bits, the highest first."""

    def __init__(self, content: bytes):
        self._bits = np.unpackbits(np.frombuffer(content, np.uint8))
        self._place = 0

    def number(self, width: int) -> int:
        return int(self.words(1, width)[0])

    def words(self, count: int, width: int) -> np.ndarray:
        """(count,) whole numbers. Raises Broken where the bits end before."""
        end = self._place + count * width
        if end > len(self._bits):
            raise Broken(f"brush mask cannot be decoded: it ends after {len(self._bits) // 8} bytes, too early")
        bits = self._bits[self._place : end].reshape(count, width).astype(np.int64)
        self._place = end
        return bits @ (1 << np.arange(width - 1, -1, -1))


def decode_brush(numbers: list[int], width: int, height: int) -> np.ndarray:
    """Bytes as numbers → (height, width) bool, where the last of four channels is more than half. Raises Broken."""
    try:
        bits = _Bits(bytes(numbers))
    except (TypeError, ValueError):
        raise Broken("brush mask cannot be decoded: expected a list of bytes") from None
    count, word = bits.number(32), bits.number(5) + 1
    if count != 4 * width * height or word != WORD:
        found = f"{count} words of {word} bits, expected {4 * width * height} of {WORD}"
        raise Broken(f"brush mask of another size than the picture: {found}")
    widths = [bits.number(4) + 1 for _ in range(4)]
    pixels = np.empty(count, np.uint8)
    place = 0
    while place < count:
        repeated = bits.number(1)
        length = bits.number(widths[bits.number(2)]) + 1
        end = place + length
        if end > count:
            raise Broken(f"brush mask cannot be decoded: its runs are of more than {count} words")
        pixels[place:end] = bits.number(WORD) if repeated else bits.words(length, WORD)
        place = end
    return pixels.reshape(height, width, 4)[..., 3] > 127
