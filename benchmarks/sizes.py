"""How large the measured work is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """One scale for all sections."""

    name: str
    image: tuple[int, int]  # height, width of the models' input
    batches: tuple[int, ...]  # images a training step
    rounds: int
    depths: tuple[int, ...]  # ResNet blocks a stage, of all contestants
    queries: int  # of the detector
    boxes: int  # that get masks at inference
    objects: int  # an image, at training
    attention_queries: int  # of the image encoder's attention, measured by itself
    attention_maps: int  # of the box encoder's
    parity_queries: int
    copy_bytes: int
    matmul: int  # side of the matrices
    files: int  # images that the loader reads
    file_size: tuple[int, int]  # width, height of those: COCO's
    peers: bool = True  # measure the other models as well


FULL = Sizes(
    name="full",
    image=(800, 1333),
    batches=(2, 8),
    rounds=7,
    depths=(3, 4, 6, 3),
    queries=300,
    boxes=100,
    objects=7,
    attention_queries=18_700,
    attention_maps=100,
    parity_queries=1_000,
    copy_bytes=2 << 30,
    matmul=8192,
    files=64,
    file_size=(640, 480),
)
SMALL = Sizes(
    name="small",
    image=(256, 416),
    batches=(2,),
    rounds=3,
    depths=(3, 4, 6, 3),
    queries=300,
    boxes=100,
    objects=7,
    attention_queries=1_800,
    attention_maps=10,
    parity_queries=60,
    copy_bytes=256 << 20,
    matmul=1024,
    files=32,
    file_size=(640, 480),
)
TINY = Sizes(
    name="tiny",
    image=(64, 96),
    batches=(2,),
    rounds=1,
    depths=(1, 1, 1, 1),
    queries=20,
    boxes=5,
    objects=2,
    attention_queries=60,
    attention_maps=2,
    parity_queries=5,
    copy_bytes=1 << 20,
    matmul=128,
    files=2,
    file_size=(96, 64),
)
SIZES = {sizes.name: sizes for sizes in (FULL, SMALL, TINY)}
