"""PNG files as Pillow reads them."""

import io

import numpy as np
import pytest
from PIL import Image

from mask_frozen_detr.results.png import encode_png


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (33, 20), (480, 641)])
def test_pillow_reads_the_same_pixels_and_texts(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    read = Image.open(io.BytesIO(encode_png(Image.fromarray(pixels), {"Software": "tester", "Title": "naïve"})))
    read.verify()  # the checksums of all chunks
    read = Image.open(io.BytesIO(encode_png(Image.fromarray(pixels), {"Software": "tester", "Title": "naïve"})))
    assert read.mode == "RGB"
    assert read.info == {"Software": "tester", "Title": "naïve"}
    np.testing.assert_array_equal(np.asarray(read), pixels)


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="found a picture of mode 'L', expected 'RGB'"):
        encode_png(Image.new("L", (4, 4)), {})
