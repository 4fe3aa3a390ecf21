"""`MaskFrozenDetr`: a frozen detector and its mask network, as one thing to load, run, save and share."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.inputs import is_one_picture, to_picture
from mask_frozen_detr.detectors import DetectorShapes, FrozenDetector, Identity, load_detector
from mask_frozen_detr.detectors.base import hash_weights
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.detectors.transformers_detector import DEFAULT_ENCODER_LAYER
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import write_bytes_atomic, write_folder_atomic, write_json_atomic
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.results.inference import check_thresholds, segment
from mask_frozen_detr.results.instances import Instances

CONFIG_FILE = "mask_frozen_detr.json"
WEIGHTS_FILE = "mask_network.safetensors"
DETECTOR_FOLDER = "detector"  # of a run that fine-tuned its detector
TRAINING_FILE = "training.json"  # how a run was trained
FORMAT = 1
DETECTIONS = 100  # an image


class MaskFrozenDetr(nn.Module):
    """Instance masks from a detector that stays as it is.

    detector: the frozen detector. network: the mask network built for it. own_detector: the detector was fine-tuned
    with the masks (Table 11), is nowhere else, and is saved with them. classes: how the run's training data calls the
    detector's classes; None before a training and for runs of older versions. max_detections: detections an image where
    nothing else is asked for: what the run was trained with.
    """

    def __init__(
        self,
        detector: FrozenDetector,
        network: MaskNetwork,
        own_detector: bool = False,
        classes: RunClasses | None = None,
    ):
        super().__init__()
        self.detector, self.network, self.own_detector = detector, network, own_detector
        self.classes = classes
        self.max_detections = DETECTIONS

    @classmethod
    def build(cls, detector: FrozenDetector, config: MaskNetworkConfig | None = None) -> "MaskFrozenDetr":
        """An untrained mask network on a detector. Raises UserError where the parts do not fit it."""
        try:
            return cls(detector, MaskNetwork(config or MaskNetworkConfig(), detector.shapes))
        except ValueError as error:
            raise UserError(f"{detector.info.identity.name}: {error}") from error

    @classmethod
    def training_free(cls, detector: FrozenDetector, roi_align: bool = True, stem: bool | None = None):
        """The baseline of section 3.1. `stem` None adds C₁ where its width allows."""
        if stem is None:
            stem = detector.shapes.stem_width == detector.shapes.feature_widths[0]
        return cls.build(detector, training_free(roi_align=roi_align, stem=stem))

    @classmethod
    def from_pretrained(
        cls, run: str | Path, detector: str | Path | FrozenDetector | None = None, revision: str | None = None
    ) -> "MaskFrozenDetr":
        """Load a run folder, or a hub repository that holds one, with the detector it was trained on.

        detector: where that detector lies now, if it has moved; its weights must be the same.
        Raises UserError for a folder that is no run, a detector that is gone or another one, damaged weights.
        """
        folder = find_run(run, revision)
        if folder is None:
            raise UserError(
                f"{run}: no {CONFIG_FILE} in it, expected a run folder that `mask-frozen-detr train` wrote, or a hub "
                "repository of one that can be reached"
            )
        saved = read_run_config(folder)
        identity = saved.detector
        own = detector is None and identity.name == DETECTOR_FOLDER and (folder / DETECTOR_FOLDER).is_dir()
        if own:
            detector = folder / DETECTOR_FOLDER
        if not isinstance(detector, FrozenDetector):
            revision = identity.revision if detector is None else None
            try:
                detector = load_detector(
                    str(detector or identity.name),
                    revision=revision,
                    encoder_layer=identity.encoder_layer or DEFAULT_ENCODER_LAYER,
                    prompt=identity.prompt,
                )
            except UserError as error:
                raise UserError(
                    f"{run}: its detector {identity.name!r} cannot be loaded; name its place with --detector ({error})"
                ) from error
        found = detector.info.identity
        if found.weights != identity.weights:
            raise UserError(
                f"{run}: the mask network belongs to detector {identity.name!r} (weights {identity.weights[:12]}…), "
                f"but {found.name!r} has other weights ({found.weights[:12]}…); masks would be wrong"
            )
        if identity.encoder_layer not in (None, found.encoder_layer):
            raise UserError(
                f"{run}: the mask network was trained on the maps of encoder layer {identity.encoder_layer}, found "
                f"those of layer {found.encoder_layer}; load the detector with encoder_layer={identity.encoder_layer}"
            )
        network = MaskNetwork(saved.network, saved.shapes)
        load_network_weights(network, folder / WEIGHTS_FILE, saved.checksum)
        model = cls(detector, network.eval(), own, saved.classes)
        model.max_detections = saved.max_detections
        return model

    def adopt_detector(self, run: Path | None = None) -> None:
        """The detector is the masks' own from now on: as it has been fine-tuned, or as the folder `run` has it."""
        identity = self.detector.info.identity
        if run is not None:
            found = load_detector(
                run / DETECTOR_FOLDER,
                encoder_layer=identity.encoder_layer or DEFAULT_ENCODER_LAYER,
                prompt=identity.prompt,
            )
            self.detector.model.load_state_dict(found.model.state_dict())
        weights = hash_weights(self.detector.model)
        self.detector.info.identity = replace(identity, name=DETECTOR_FOLDER, revision=None, weights=weights)
        self.own_detector = True

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the mask network and the detector's identity; the frozen weights stay where they are."""
        if self.own_detector:
            write_folder_atomic(Path(folder) / DETECTOR_FOLDER, self.detector.save)
        checksum = save_network_weights(self.network, Path(folder) / WEIGHTS_FILE)
        write_json_atomic(Path(folder) / CONFIG_FILE, {**self.describe(), "checksums": {WEIGHTS_FILE: checksum}})

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None) -> str:
        """Upload the mask network as a hub repository; returns its address."""
        import tempfile

        api = HfApi(token=token)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Mask network")
        return str(url)

    def describe(self) -> dict[str, Any]:
        """What a run folder says about the model."""
        identity = self.detector.info.identity
        if self.own_detector:
            identity = replace(identity, name=DETECTOR_FOLDER, revision=None)
        classes = {} if self.classes is None else {"classes": self.classes.describe()}
        return {
            "format": FORMAT,
            "detector": identity.as_dict(),
            "shapes": asdict(self.network.shapes),
            "network": asdict(self.network.config),
            "class_names": self.detector.info.class_names,
            **classes,
            "max_detections": self.max_detections,
            "preprocessing": self.detector.info.preprocessing.describe(),
        }

    @property
    def class_names(self) -> list[str]:
        """The detector's class names; of those without, what the run's training data calls them ("" if unknown)."""
        names = self.detector.info.class_names
        return names if self.classes is None else self.classes.names(names)

    @property
    def device(self) -> torch.device:
        return next(self.detector.parameters()).device

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Any:
        """Instances of one image, or a list of them for a list, tuple or generator of images.

        images: paths, encoded bytes and binary file objects (turned as their EXIF data says); PIL images of any mode,
            arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and tensors (1, H, W), (3, H, W) or (4, H, W), uint8,
            uint16, bool or floats in [0, 1], RGB or grey (as they lie).
        score_threshold: on the final score (equation 13, or 2), 0 to 1.
        max_detections: None takes what the run was trained with, else 100.
        probabilities: keep the probability maps too.
        Raises TypeError for what is no image, UserError for an image that cannot be read and for numbers without sense.
        """
        max_detections = self.max_detections if max_detections is None else max_detections
        check_thresholds(score_threshold, max_detections)
        if is_one_picture(images):
            return self._predict_one(images, score_threshold, max_detections, probabilities)
        return [self._predict_one(image, score_threshold, max_detections, probabilities) for image in images]

    def _predict_one(self, image: Any, score_threshold: float, max_detections: int, probabilities: bool) -> Instances:
        image = to_picture(image)
        pixel_values, pixel_mask = collate_images([self.detector.info.preprocessing(image)])
        self.network.eval()
        instances = segment(
            self.detector,
            self.network,
            send(pixel_values, self.device),
            pixel_mask,
            [(image.height, image.width)],
            max_detections,
            score_threshold,
            probabilities,
            self.class_names,
        )[0]
        return instances.above(score_threshold)


def save_network_weights(network: nn.Module, path: Path) -> str:
    """Returns the sha256 of what it has written."""
    data = save({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()})
    write_bytes_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def load_network_weights(network: nn.Module, path: Path, checksum: str | None = None) -> None:
    """Raises UserError where the file is missing, damaged or of another network.

    checksum: the sha256 that it must have; None: of a run that did not note it.
    """
    try:
        data = path.read_bytes()
        if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
            raise UserError(
                f"{path}: the mask network's weights are damaged: the file is not what was written (sha256 expected: "
                f"{checksum[:12]}…); copy it anew, or train the run anew"
            )
        state = load(data)
    except FileNotFoundError as error:
        raise UserError(f"{path}: the mask network's weights are missing") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: the mask network's weights cannot be read: {error}") from error
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path}: the weights are of another mask network: {str(error).splitlines()[-1].strip()}"
        ) from error


@dataclass(frozen=True)
class RunConfig:
    """What a run folder says about its model."""

    detector: Identity
    shapes: DetectorShapes
    network: MaskNetworkConfig
    classes: RunClasses | None
    max_detections: int
    checksum: str | None  # sha256 of the mask network's weights; None: of an older version


def read_run_config(folder: Path) -> RunConfig:
    """Raises UserError where the description of a run folder is missing or damaged."""
    path = folder / CONFIG_FILE
    try:
        saved = json.loads(path.read_text())
        if saved["format"] > FORMAT:
            raise UserError(f"{path}: written by a newer version (format {saved['format']}, expected up to {FORMAT})")
        shapes: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in saved["shapes"].items()
        }
        return RunConfig(
            Identity(**saved["detector"]),
            DetectorShapes(**shapes),
            MaskNetworkConfig(**saved["network"]),
            RunClasses.read(saved["classes"], len(saved["class_names"])) if "classes" in saved else None,
            _trained_detections(saved, folder),
            saved.get("checksums", {}).get(WEIGHTS_FILE),
        )
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); train the run anew") from error


def _trained_detections(saved: dict[str, Any], folder: Path) -> int:
    """Detections an image of a run; older versions say it only where they say how the run was trained."""
    count = saved.get("max_detections")
    if count is None:
        try:
            count = json.loads((folder / TRAINING_FILE).read_text()).get("max_detections", DETECTIONS)
        except (OSError, ValueError, AttributeError):
            return DETECTIONS
    if type(count) is not int or count < 1:
        raise ValueError(f"max_detections is {count!r:.40}, expected a whole number, at least 1")
    return count


def find_run(run: str | Path, revision: str | None = None) -> Path | None:
    """The folder of a run: local, or fetched from the hub; None where `run` is something else or not there."""
    if Path(run).exists():
        folder = Path(run)
    else:
        try:
            wanted = [CONFIG_FILE, WEIGHTS_FILE, f"{DETECTOR_FOLDER}/*"]
            folder = Path(snapshot_download(str(run), revision=revision, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, OSError):
            return None
    return folder if (folder / CONFIG_FILE).is_file() else None
