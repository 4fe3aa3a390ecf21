"""The detector that a run belongs to: where it lies now, and whether it is the one that the masks were trained on."""

import json
import os
from itertools import zip_longest
from pathlib import Path

from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.run.description import CONFIG_FILE, DETECTOR_FOLDER, DetectorPlace, RunConfig

# What of a pre-processing changes pictures; the rest is bookkeeping, and differs between versions of transformers.
DECIDING = (
    *("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    *("do_pad", "pad_size", "do_center_crop", "crop_size", "do_convert_rgb"),
    *("kind", "shortest", "longest", "mean", "std"),
)


def place_of(detector: Path, folder: Path) -> DetectorPlace:
    """Of an absolute path, as seen from a run folder."""
    try:
        return DetectorPlace(str(detector), os.path.relpath(detector.resolve(), folder.resolve()))
    except ValueError:  # on another drive of Windows
        return DetectorPlace(str(detector))


def find_detector(saved: RunConfig, folder: Path) -> str:
    """Where a run's detector lies now: the hub id or the name that the user gave, where it is no local one.

    A tree that was moved as a whole holds it at the same place relative to the run. Runs of older versions know only
    the path that the user gave: it is tried from every folder above the run.
    """
    name = saved.detector.name
    places = [Path(name)]
    if saved.place is not None:
        known = [] if saved.place.relative is None else [(folder / saved.place.relative).resolve()]
        places = [*known, Path(saved.place.absolute), *places]
    elif saved.detector.revision is None:
        places += [parent / name for parent in folder.absolute().parents]
    for place in places:
        if place.exists():
            return str(place)
    return name


def check_detector(run: str | Path, saved: RunConfig, detector: FrozenDetector) -> None:
    """Raises UserError that says what is another than it was in training: masks would be wrong."""
    identity, found = saved.detector, detector.info.identity
    if not detector.has_weights(identity):
        raise UserError(
            f"{run}: the mask network belongs to detector {identity.name!r} (weights {identity.weights[:12]}…), "
            f"but {found.name!r} has other weights ({found.weights[:12]}…); masks would be wrong"
        )
    if identity.encoder_layer not in (None, found.encoder_layer):
        raise UserError(
            f"{run}: the mask network was trained on the maps of encoder layer {identity.encoder_layer}, found "
            f"those of layer {found.encoder_layer}; load the detector with encoder_layer={identity.encoder_layer}"
        )
    if None not in (identity.settings, found.settings) and identity.settings != found.settings:
        raise UserError(
            f"{run}: the configuration of {found.name!r}, or how its outputs are read (register_detector), is another "
            "than in training; masks would be wrong"
        )
    names = detector.info.class_names
    if saved.class_names is not None and found.prompt is None and saved.class_names != names:
        pairs = zip_longest(saved.class_names, names)
        index, before, now = next((k, *pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"{run}: class {index} of {found.name!r} is {now!r}, in training it was {before!r}; the detector's classes "
            "must be those of training, in their order"
        )
    if saved.preprocessing is not None:
        now_made = json.loads(json.dumps(detector.info.preprocessing.describe(), default=str))
        for key in DECIDING:
            before, now = saved.preprocessing.get(key), now_made.get(key)
            if (before or now) and key in saved.preprocessing and key in now_made and before != now:
                raise UserError(
                    f"{run}: the pre-processing of {found.name!r} has {key} {now!r}, in training it was {before!r}; "
                    "masks would be wrong"
                )
    shapes = detector.shapes
    for what in ("query_width", "feature_widths", "strides", "num_classes"):
        if getattr(shapes, what) != getattr(saved.shapes, what):
            raise UserError(
                f"{run}: {what.replace('_', ' ')} of {found.name!r}: found {getattr(shapes, what)}, in training "
                f"{getattr(saved.shapes, what)}; {CONFIG_FILE} is damaged, or of another detector"
            )


def check_files(folder: Path, saved: RunConfig) -> None:
    """Raises UserError where a file of the run's own detector is not what was written, as far as that was noted."""
    for name, checksum in saved.checksums.items():
        path = folder / DETECTOR_FOLDER / Path(name).name
        if name.startswith(f"{DETECTOR_FOLDER}/") and (not path.is_file() or hash_file(path) != checksum):
            raise UserError(
                f"{path}: is missing or damaged: it is not what was written (sha256 expected: {checksum[:12]}…); copy "
                "it anew, or train the run anew"
            )
