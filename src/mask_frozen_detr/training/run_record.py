"""What decides the outcome of a run: written beside its weights and into its checkpoints, compared when it goes on."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.processes import on_main
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training.config import TrainConfig, of_any_age
from mask_frozen_detr.training.digests import digest_data
from mask_frozen_detr.training.samples import TrainingData

# Options that may change at --resume: they decide when and where a run tells of itself, and when it has learned enough.
FREE = {"workers", "evaluate_every", "evaluate_images", "patience", "log", "log_every", "checkpoint_every", "report"}
# Digests tell nobody anything: what is said where they differ.
DIGESTS = {
    "annotations": "annotations (polygons, boxes, classes or the order of images)",
    "pictures": "content of the training pictures",
    "picture sizes": "content of the training pictures",
}


@dataclass(frozen=True)
class RunRecord:
    """Each part is what JSON can hold, so that what is compared is what was written.

    None: of a run of an older version, which did not record it.
    """

    steps: int
    network: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]  # counts, and digests of what is learned from
    detector: dict[str, Any]  # its identity when the run began
    class_names: list[str] | None
    preprocessing: dict[str, Any] | None

    @classmethod
    def describe(
        cls, model: MaskFrozenDetr, config: TrainConfig, steps: int, dataset: TrainingData, cached: bool
    ) -> "RunRecord":
        """The run that `train` is asked for; the main process alone reads the pictures."""
        about = model.run_config()
        record = cls(
            steps,
            asdict(about.network),
            asdict(config),
            {
                "training images": len(dataset),
                "instances": sum(len(image.annotations) for image in dataset.images),
                **on_main(lambda: digest_data(dataset)),
                "frozen outputs": "cached" if cached else "computed",
                **({} if model.supervision is None else {"supervision": asdict(model.supervision)}),
            },
            about.detector.as_dict(),
            about.class_names,
            about.preprocessing,
        )
        return cls(**json.loads(json.dumps(asdict(record))))

    @classmethod
    def read(cls, saved: Any, path: Path) -> "RunRecord":
        """What a checkpoint or training.json holds. Raises UserError that names `path` where it is no record."""
        try:
            parts = {key: dict(saved[key]) for key in ("network", "training", "data", "detector")}
            parts["training"] = of_any_age(parts["training"])
            # A network without a part that came later is one with that part's default.
            parts["network"] = {**asdict(MaskNetworkConfig()), **parts["network"]}
            return cls(
                int(saved["steps"]),
                **parts,
                class_names=saved.get("class_names"),
                preprocessing=saved.get("preprocessing"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: is damaged ({type(error).__name__}: {error}), expected the record of a run; "
                "another --output starts anew"
            ) from error

    def described(self) -> dict[str, Any]:
        """The record as training.json and trackers have it: the options of training beside the other parts."""
        parts = asdict(self)
        return {**parts.pop("training"), **parts}

    def check_same(self, now: "RunRecord", path: Path) -> list[str]:
        """Raises UserError where this run was started with something else than `now`.

        Returns what cannot be compared, as the version that started it did not record it.
        """
        unknown = []
        for key, before, value in self._pairs(now):
            if before is None:
                unknown.append(key)
            elif before[0] != value:
                raise UserError(f"{path}: {_difference(key, before[0], value, self, now)}")
        return unknown

    def _pairs(self, now: "RunRecord") -> Iterator[tuple[str, tuple[Any] | None, Any]]:
        """Name, value before (in a tuple; None: not recorded) and value now."""
        for part in ("network", "training", "data", "detector"):
            before = getattr(self, part)
            for key, value in getattr(now, part).items():
                if key in FREE or (part == "detector" and key in ("name", "revision", "scheme")):
                    continue
                if key == "weights" and before.get("scheme") != now.detector.get("scheme"):
                    yield "detector weights", None, value  # an older version hashed them in another way
                    continue
                named = f"detector {key}" if part == "detector" else key
                yield named, (before[key],) if key in before else None, value
        for part, key in (("class_names", "class names"), ("preprocessing", "pre-processing")):
            before = getattr(self, part)
            yield f"detector {key}", None if before is None else (before,), getattr(now, part)


def _difference(key: str, before: Any, value: Any, saved: RunRecord, now: RunRecord) -> str:
    if key in DIGESTS:
        return (
            f"the {DIGESTS[key]} changed since this run was started; --resume goes on with the same data, another "
            "--output starts anew"
        )
    if key.startswith("detector "):
        return (
            f"this run was started on {saved.detector.get('name')}, found {now.detector['name']} with another "
            f"{key.removeprefix('detector ').replace('_', ' ')}; --resume goes on with the same detector"
        )
    return (
        f"this run was started with {key} {before!r}, found {value!r}; --resume goes on with the same options, another "
        "--output starts anew"
    )
