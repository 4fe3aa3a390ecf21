"""`detectors`: which detectors masks can be trained for."""

from dataclasses import dataclass


@dataclass
class Detectors:
    """The families of detectors that masks can be trained for."""

    def run(self) -> None:
        from mask_frozen_detr.detectors.family_table import format_families

        print(format_families())
