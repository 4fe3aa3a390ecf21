"""`MaskFrozenDetr`: a frozen detector and its mask network, as one thing to load, run, save and share."""

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mask_frozen_detr.data.classes import RunClasses
from mask_frozen_detr.data.coco import HeldOut
from mask_frozen_detr.data.inputs import is_one_picture, to_picture
from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.detectors.identity import SCHEME, hash_weights
from mask_frozen_detr.detectors.preprocessing import Preprocessing, collate_images
from mask_frozen_detr.detectors.transformers_detector import DEFAULT_ENCODER_LAYER
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.checksums import hash_file
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import write_folder_atomic, write_json_atomic
from mask_frozen_detr.machine.forks import forks_for
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, training_free
from mask_frozen_detr.results.box_inputs import call_by, check_boxes, find_labels
from mask_frozen_detr.results.given_boxes import look_into_boxes
from mask_frozen_detr.results.inference import segment
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.predictor import Predictor
from mask_frozen_detr.run.card import CARD_FILE, Card, write_card
from mask_frozen_detr.run.description import (
    CONFIG_FILE,
    DETECTIONS,
    DETECTOR_FOLDER,
    WEIGHTS_FILE,
    RunConfig,
    Supervision,
    read_run_config,
)
from mask_frozen_detr.run.detector import check_detector, load_run_detector, place_of
from mask_frozen_detr.run.facts import read_facts
from mask_frozen_detr.run.hub import upload
from mask_frozen_detr.run.locate import locate_run
from mask_frozen_detr.run.transformers_files import check_transformers_files, write_transformers_files
from mask_frozen_detr.run.weights import load_network, load_network_weights, save_network_weights

__all__ = [
    "CONFIG_FILE",
    "DETECTOR_FOLDER",
    "WEIGHTS_FILE",
    "MaskFrozenDetr",
    "load_network_weights",
    "read_run_config",
    "save_network_weights",
]

LANES = 2  # pictures that a CPU's threads see at once in `side_by_side`: each takes its memory
SMALL = 800 * 800  # pixels of a batch: larger ones keep all threads busy by themselves


class MaskFrozenDetr(nn.Module, Predictor[torch.Tensor]):
    """Instance masks from a detector that stays as it is.

    detector: the frozen detector. network: the mask network built for it. own_detector: the detector was fine-tuned
    with the masks (Table 11), is nowhere else, and is saved with them. classes: how the run's training data calls the
    detector's classes; None before a training and for runs of older versions. run_folder: where the records of the
    training lie, which a model card tells of; None where it was not loaded from a folder. supervision: how it was
    trained, where not on drawn masks alone. mirror: set it for better masks of what is detected, each the mean with one
    of a look in the mirror, for twice the time; it is not saved.
    """

    def __init__(
        self,
        detector: FrozenDetector,
        network: MaskNetwork,
        own_detector: bool = False,
        classes: RunClasses | None = None,
    ):
        super().__init__()
        self.detector = detector.with_finer_look(network.config.finer_look)
        self.own_detector = own_detector
        self.network = network.to(self.device)  # a detector may lie on a GPU already, as after a training
        self.classes = classes
        self.max_detections = DETECTIONS
        self.run_folder: Path | None = None
        self.held_out: HeldOut | None = None
        self.supervision: Supervision | None = None

    @classmethod
    def build(cls, detector: FrozenDetector, config: MaskNetworkConfig | None = None) -> "MaskFrozenDetr":
        """An untrained mask network on a detector. Raises UserError where the parts do not fit it."""
        config = config or MaskNetworkConfig()
        detector = detector.with_finer_look(config.finer_look)
        try:
            return cls(detector, MaskNetwork(config, detector.shapes))
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
        cls,
        run: str | Path,
        detector: str | Path | FrozenDetector | None = None,
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
        prompt: str | Sequence[str] | None = None,
        detector_revision: str | None = None,
    ) -> "MaskFrozenDetr":
        """Load a run folder, or a hub repository that holds one, with the detector it was trained on.

        detector: where that detector lies now, if it has moved; it must be the same. A local one is looked for where
            it lay relative to the run folder, then where it lay on the machine that trained.
        revision: of the run's hub repository. detector_revision: of the detector's, instead of the trained one.
        device: where to put it all; None leaves it where the detector lies, by default on the CPU.
        prompt: other classes for a detector that takes text.
        Raises UserError for a folder that is no run, a detector that is gone or another one, damaged files.
        """
        folder = locate_run(run, revision)
        saved = read_run_config(folder)
        own = False
        if not isinstance(detector, FrozenDetector):
            detector, own = load_run_detector(run, saved, folder, detector, detector_revision, prompt)
        check_detector(run, saved, detector)
        model = cls(detector, load_network(saved, folder), own, saved.classes)
        model.max_detections, model.held_out, model.run_folder = saved.max_detections, saved.held_out, folder
        model.supervision = saved.supervision
        return model if device is None else model.to(device)

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
        self.detector.info.identity = replace(
            identity,
            name=DETECTOR_FOLDER,
            revision=None,
            weights=self.detector.hash_checkpoint(),
            settings=None,  # the folder's checksums stand for them
            scheme=SCHEME,
        )
        self.detector.info.path = None
        self.own_detector = True

    def save_pretrained(self, folder: str | Path, places: bool = True, card: bool = True) -> None:
        """Write the mask network and the detector's identity; the frozen weights stay where they are.

        places: note where a local detector lies. card: a model card as well, README.md; one that is there already and
        that somebody wrote or edited stays. A description without checksums comes first and one with them last: a
        kill in between leaves files that load, or that say that they do not belong together.
        Raises UserError where that cannot be written, or would replace the files of another model.
        """
        folder = Path(folder)
        check_transformers_files(folder)
        config = self.run_config(folder if places else None)
        write_json_atomic(folder / CONFIG_FILE, config.describe())
        checksums = {}
        if self.own_detector:
            write_folder_atomic(folder / DETECTOR_FOLDER, self.detector.save)
            for file in sorted((folder / DETECTOR_FOLDER).iterdir()):
                checksums[f"{DETECTOR_FOLDER}/{file.name}"] = hash_file(file)
        write_transformers_files(folder, self.detector.info, self.class_names, self.max_detections)
        if card:
            write_card(folder / CARD_FILE, self.card(folder.absolute().name))
        checksums[WEIGHTS_FILE] = save_network_weights(self.network, folder / WEIGHTS_FILE)
        write_json_atomic(folder / CONFIG_FILE, replace(config, checksums=checksums).describe())

    def push_to_hub(self, repo_id: str, private: bool = False, token: str | None = None, pictures: bool = False) -> str:
        """Upload the mask network as a hub repository, with a model card; returns its address.

        The card tells of the training where the model was loaded from the folder of its run: figures and options.
        pictures: also its val pictures, truth beside masks, which are photos of your data. Where the run folder holds
        an edited README.md it is taken, and a card that somebody has edited on the hub stays. Raises UserError for a
        name that is none, without permission, and offline.
        """
        import tempfile

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, places=False, card=False)
            edited = None if self.run_folder is None else self.run_folder / CARD_FILE
            if edited is not None and edited.is_file():
                shutil.copyfile(edited, folder / CARD_FILE)
            card = replace(self.card(repo_id), with_picture=pictures)
            write_card(folder / CARD_FILE, card)
            if card.picture is not None:
                shutil.copyfile(card.picture, folder / card.picture.name)
            return upload(folder, repo_id, private, token)

    def card(self, name: str) -> Card:
        """The model card under a name: of the model, and of its training as far as its run folder tells."""
        info = self.detector.info
        on_hub = info.path is None and not self.own_detector and "/" in info.identity.name
        return Card(
            name,
            Path(info.identity.name).name if info.path is not None else info.identity.name,
            info.identity.name if on_hub else None,
            info.identity.family,
            sum(parameter.numel() for parameter in self.network.parameters()),
            self.class_names,
            read_facts(self.run_folder),
            own_detector=self.own_detector,
        )

    def run_config(self, folder: Path | None = None) -> RunConfig:
        """What a run folder says about the model; of that folder, also where a local detector lies from there."""
        info = self.detector.info
        path = None if self.own_detector or folder is None else info.path
        return RunConfig(
            replace(info.identity, name=DETECTOR_FOLDER, revision=None) if self.own_detector else info.identity,
            self.network.shapes,
            self.network.config,
            self.classes,
            self.max_detections,
            info.class_names,
            info.preprocessing.describe(),
            None if path is None or folder is None else place_of(path, folder),
            self.held_out,
            self.supervision,
        )

    def fingerprint(self) -> dict[str, Any]:
        info, kind = self.detector.info, self.device.type
        identity = {key: value for key, value in info.identity.as_dict().items() if key not in ("name", "revision")}
        return {
            "precision": str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "torch.float32",
            "detector": identity,
            "mask_network": hash_weights(self.network),
            "preprocessing": info.preprocessing.describe(),
            "class_names": self.class_names,
            **({"mirror": True} if self.mirror else {}),
        }

    @property
    def detector_names(self) -> list[str]:
        return self.detector.info.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        return self.detector.info.preprocessing

    @property
    def supervised(self) -> str:
        return "" if self.supervision is None else self.supervision.sentence()

    @property
    def device(self) -> torch.device:
        return next(self.detector.parameters()).device

    def forks(self, batch: int) -> int:
        """One for each of torch's threads that has a core, on a CPU, where pictures are small."""
        return forks_for(torch.get_num_threads()) if self._leaves_threads_idle(batch) else 0

    def _leaves_threads_idle(self, batch: int) -> bool:
        """Whether a batch is too small to keep all threads of a CPU busy."""
        preprocessing = self.preprocessing
        height, width = preprocessing.edges if preprocessing.resizes_freely else preprocessing.probe_size()
        return self.device.type == "cpu" and torch.get_num_threads() >= LANES and batch * height * width <= SMALL

    def side_by_side(self, batch: int) -> "list[Predictor[torch.Tensor]]":
        """On a CPU with threads for two pictures, where these are small, a copy that shares the weights."""
        if not self._leaves_threads_idle(batch):
            return [self]
        shared = {id(one): one for one in (*self.parameters(), *self.buffers(), self.detector.info)}
        try:
            return [self, *(copy.deepcopy(self, dict(shared)) for _ in range(1, LANES))]
        except Exception:  # whatever somebody's own detector holds that cannot be copied
            return [self]

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.3,
        max_detections: int | None = None,
        probabilities: bool = False,
        *,
        boxes: Any = None,
        labels: Any = None,
        careful: bool = False,
        classes: Sequence[str] | None = None,
    ) -> Any:
        """Instances of one image, or a list of them for several; arguments and errors as of `Predictor.predict`, and:

        boxes: masks for these instead of what the detector finds: (N, 4) x1, y1, x2, y2 in the image's pixels, upright
            as its EXIF data says; of several images a list with an entry each. All of them are kept, in their order,
            and `scores` tell how good the masks are (see `results.given_boxes`).
        labels: of these boxes, class indices or names, None where unknown; a name that the detector does not know stays
            as it is, with the label -1. Of several images a list with an entry each.
        careful: of given boxes, look twice, once in the mirror, and at all but large ones from near: better masks, and
            scores that tell more, for two forward passes of the detector an image and two a box that is not large.
        """
        if boxes is not None or labels is not None:
            return self._predict_given(images, boxes, labels, probabilities, careful)
        return super().predict(images, score_threshold, max_detections, probabilities, classes=classes)

    def _predict_given(self, images: Any, boxes: Any, labels: Any, probabilities: bool, careful: bool) -> Any:
        if boxes is None:
            raise UserError("labels: found without boxes, expected both")
        if is_one_picture(images):
            return self._masks_in_boxes(images, boxes, labels, probabilities, careful)
        pictures, given = list(images), list(boxes)
        named = [None] * len(given) if labels is None else list(labels)
        if not len(pictures) == len(given) == len(named):
            raise UserError(
                f"boxes: found {len(given)} lists of boxes and {len(named)} of labels for {len(pictures)} images, "
                "expected one an image"
            )
        together = zip(pictures, given, named, strict=True)
        return [self._masks_in_boxes(image, its, names, probabilities, careful) for image, its, names in together]

    def _masks_in_boxes(self, image: Any, boxes: Any, labels: Any, probabilities: bool, careful: bool) -> Instances:
        picture, names = to_picture(image), self.class_names
        corners = check_boxes(boxes, picture.width, picture.height)
        indices, called = find_labels(labels, len(corners), names)
        instances = look_into_boxes(
            self.detector, self.network, names, picture, corners, indices, probabilities, careful
        )
        return call_by(instances, called, indices)

    def segment(
        self,
        prepared: Sequence[torch.Tensor],
        sizes: Sequence[tuple[int, int]],
        max_detections: int = DETECTIONS,
        score_threshold: float = 0.0,
        probabilities: bool = False,
        classes: Sequence[int] | None = None,
    ) -> list[Instances]:
        """Instances of prepared pictures in one forward pass, see `Predictor.segment`.

        The mask network computes as in evaluation, also in the midst of a training."""
        pixel_values, pixel_mask = collate_images(list(prepared))
        was_training = self.network.training
        self.network.eval()
        try:
            return segment(
                self.detector,
                self.network,
                send(pixel_values, self.device),
                pixel_mask,
                sizes,
                max_detections,
                score_threshold,
                probabilities,
                self.class_names,
                classes,
                self.mirror,
            )
        finally:
            self.network.train(was_training)
