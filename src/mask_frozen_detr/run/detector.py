"""The detector that a run belongs to: where it lies now, and whether it is the one that the masks were trained on."""

import json
import os
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.detectors.transformers_detector import DEFAULT_ENCODER_LAYER
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.run.description import CONFIG_FILE, DETECTOR_FOLDER, DetectorPlace, RunConfig

# What of a pre-processing changes no picture, and differs between versions of transformers. All else is compared.
BOOKKEEPING = (
    *("image_processor_type", "processor_class", "feature_extractor_type", "data_format", "device", "return_tensors"),
    *("input_data_format", "disable_grouping", "format", "do_convert_annotations", "transformers_version"),
    *("return_segmentation_masks", "annotations", "masks_path", "ignore_index", "do_reduce_labels"),
)


def place_of(detector: Path, folder: Path) -> DetectorPlace:
    """What is noted of a detector at an absolute path, as seen from a run folder."""
    try:
        return DetectorPlace(str(detector), os.path.relpath(detector.resolve(), folder.resolve()))
    except ValueError:  # on another drive of Windows
        return DetectorPlace(str(detector))


def load_run_detector(
    run: str | Path,
    saved: RunConfig,
    folder: Path,
    detector: str | Path | None = None,
    revision: str | None = None,
    prompt: str | Sequence[str] | None = None,
) -> tuple[FrozenDetector, bool]:
    """A run's detector, and whether it is one that was fine-tuned with the masks and lies in the run folder.

    detector, revision, prompt: other ones than those of the training. Raises UserError where it cannot be loaded.
    """
    identity = saved.detector
    own = detector is None and identity.name == DETECTOR_FOLDER and (folder / DETECTOR_FOLDER).is_dir()
    if own:
        check_files(folder, saved)
        detector = folder / DETECTOR_FOLDER
    elif detector is None:
        detector, revision = find_detector(saved, folder), revision or identity.revision
    try:
        loaded = load_detector(
            str(detector),
            revision=revision,
            encoder_layer=identity.encoder_layer or DEFAULT_ENCODER_LAYER,
            prompt=identity.prompt if prompt is None else prompt,
        )
    except UserError as error:
        raise UserError(
            f"{run}: its detector {identity.name!r} cannot be loaded; name its place with --detector ({error})"
        ) from error
    return loaded, own


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
    """Raises UserError that says what is another than it was in training: masks would be wrong.

    What a run of an older version did not note cannot be compared: a warning names it.
    """
    identity, found = saved.detector, detector.info.identity
    _warn_of_gaps(run, saved)
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
        for key in sorted((saved.preprocessing.keys() | now_made.keys()) - {*BOOKKEEPING}):
            before, now = saved.preprocessing.get(key), now_made.get(key)
            # A setting that another version of transformers lacks is bookkeeping, a step of its own is not.
            compared = key.startswith("do_") or (key in saved.preprocessing and key in now_made)
            if compared and (before or now) and before != now:
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


def _warn_of_gaps(run: str | Path, saved: RunConfig) -> None:
    own = saved.detector.name == DETECTOR_FOLDER  # checksums stand for its configuration
    noted = {
        "its configuration": own or saved.detector.settings is not None,
        "its class names": saved.class_names is not None,
        "its pre-processing": saved.preprocessing is not None,
        "the checksum of the mask network": saved.checksum is not None,
    }
    gaps = [what for what, known in noted.items() if not known]
    if gaps:
        warnings.warn(
            f"{run}: written by an older version, which noted less of the detector; not compared: {', '.join(gaps)}",
            stacklevel=3,
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
