"""The model card of a run: README.md for the hub, its first lines metadata that the hub reads.

A card that somebody has edited is never replaced: its last line holds a hash of what was written.
"""

import hashlib
import html
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from mask_frozen_detr.errors import printable
from mask_frozen_detr.machine.files import write_text_atomic
from mask_frozen_detr.run.facts import TrainingFacts

CARD_FILE = "README.md"
SIGNATURE = re.compile(r"<!-- written by mask-frozen-detr, sha256 ([0-9a-f]{64}) -->\s*\Z")
MOST_NAMES = 100
FIELDS_TO_FILL = """\
# To fill in before you share: the licence of these masks (that of detector and data may bind you), and the data.
# license: apache-2.0
# datasets:
# - you/data
"""
METHOD = "Mask Frozen-DETR: High Quality Instance Segmentation with One GPU"


@dataclass(frozen=True)
class Card:
    """What a model card tells of a run.

    detector: its name. base_model: the same, where it is one of the hub's. parameters: of the mask network.
    own_detector: it was fine-tuned with the masks, and lies beside them. with_picture: show val pictures; they are
    photos of whoever trained, so that they are asked first.
    """

    name: str
    detector: str
    base_model: str | None
    family: str
    parameters: int
    class_names: list[str]
    trained: TrainingFacts = field(default_factory=TrainingFacts)
    with_picture: bool = False
    own_detector: bool = False

    @property
    def picture(self) -> Path | None:
        """The picture that it shows, if it is asked to and there is one."""
        return self.trained.picture if self.with_picture else None

    def text(self) -> str:
        """All of README.md, with its signature."""
        parts = [f"---\n{self._metadata()}\n{FIELDS_TO_FILL}---", f"# {_plain(self.name)}", self._about()]
        if self.trained.evaluation is not None:
            parts.append(self._results())
        if self.picture is not None:
            parts.append(f"## Pictures\n\n![truth beside masks, on validation images]({self.picture.name})")
        parts += [self._use(), self._training(), self._classes(), LICENCE, CITATION]
        return sign("\n\n".join(part for part in parts if part) + "\n")

    def _metadata(self) -> str:
        evaluation = self.trained.evaluation
        results = None
        if evaluation is not None:
            box, mask = evaluation.box["AP"], evaluation.mask["AP"]
            figures = {
                "mask_ap": ("mask AP, COCO", mask),
                "mask_ap50": ("mask AP50", evaluation.mask["AP50"]),
                "mask_ap75": ("mask AP75", evaluation.mask["AP75"]),
                "box_ap": ("box AP, COCO: the detector's own", box),
                "mask_to_box_ratio": ("mask AP / box AP", mask / box if box else math.nan),
            }
            results = [
                EvalResult(
                    task_type="image-segmentation",
                    task_name="instance segmentation",
                    dataset_type="validation-split",
                    dataset_name=f"the run's validation split, {evaluation.images} images",
                    metric_type=kind,
                    metric_name=name,
                    metric_value=round(value, 3),
                )
                for kind, (name, value) in figures.items()
                if math.isfinite(value)
            ]
        return ModelCardData(
            model_name=self.name,
            pipeline_tag="image-segmentation",
            library_name="mask-frozen-detr",
            base_model=self.base_model,
            tags=["instance-segmentation", "object-detection", "detr", "mask-frozen-detr", self.family],
            eval_results=results or None,
        ).to_yaml()

    def _about(self) -> str:
        masks = f"a mask network of {self.parameters / 1e6:.1f} M parameters"
        if self.own_detector:
            about = f"Instance masks and their detector, fine-tuned together: {masks} on it"
            lies = "Both are here."
        else:
            about = (
                f"Instance masks for the detector {_plain(self.detector)}, which stays as it is: {masks} on its outputs"
            )
            lies = "The weights here are the mask network's alone."
            if self.base_model is None:
                lies += (
                    " The detector is not on the hub: `from_pretrained(…, detector=FOLDER)` names where you have it."
                )
        return f'{about}, by the method of "{METHOD}". {lies}'

    def _results(self) -> str:
        evaluation = self.trained.evaluation
        assert evaluation is not None
        box, mask = evaluation.box, evaluation.mask
        ratio = f"{mask['AP'] / box['AP']:.2f}" if box["AP"] > 0 else "–"
        rows = "\n".join(
            f"| {name} | " + " | ".join(_figure(values[key]) for key in ("AP", "AP50", "AP75")) + " |"
            for name, values in (("box", box), ("mask", mask))
        )
        left_out = "".join(f"\n- {_plain(line)}" for line in evaluation.left_out.lines())
        supervision = f" The mask network was {_plain(evaluation.supervision)}." if evaluation.supervision else ""
        return (
            "## Results\n\n| | AP | AP50 | AP75 |\n| --- | --- | --- | --- |\n"
            f"{rows}\n\nMask AP is {ratio} of box AP. {_plain(evaluation.coverage())}, scored by "
            f"{_plain(evaluation.scorer)}; box AP is the detector's own.{supervision}{left_out}"
        )

    def _use(self) -> str:
        code = _code(self.name)
        return f"""## Use

```sh
pip install mask-frozen-detr
```

```python
from mask_frozen_detr import MaskFrozenDetr

model = MaskFrozenDetr.from_pretrained("{code}")
instances = model.predict("photo.jpg", score_threshold=0.3)
print(instances.summary())
```

As a pipeline of transformers, whose one label map has no place for masks that overlap:

```python
import mask_frozen_detr
from transformers import pipeline

segments = pipeline("image-segmentation", model="{code}")("photo.jpg", threshold=0.3)
```"""

    def _training(self) -> str:
        lines = []
        for key in ("training images", "instances"):
            if isinstance(value := self.trained.data.get(key), int):
                lines.append(f"- {key}: {value:,}")
        if self.trained.steps is not None:
            lines.append(f"- iterations: {self.trained.steps:,}")
        for key in ("batch", "lr", "precision", "finetune", "seed"):
            if isinstance(value := self.trained.options.get(key), int | float | str):
                lines.append(f"- {key}: {_plain(str(value))}")
        return "## Training\n\n" + "\n".join(lines) if lines else ""

    def _classes(self) -> str:
        names = [_plain(printable(name, 60)) for name in self.class_names if name]
        rest = f" … ({len(names)} in all)" if len(names) > MOST_NAMES else ""
        return "## Classes\n\n" + ", ".join(names[:MOST_NAMES]) + rest if names else ""


LICENCE = """## Licence

To fill in: the licence of these masks, here and in the metadata above. The detector has a licence of its own, and so
has the data that the masks were learned from."""

CITATION = f'## Citation\n\nThe method is that of the paper "{METHOD}". Please cite its authors.'


def sign(text: str) -> str:
    """`text` with the line by which `is_untouched` knows it."""
    return f"{text}\n<!-- written by mask-frozen-detr, sha256 {_digest(text)} -->\n"


def is_untouched(text: str) -> bool:
    """Whether a card is as it was written: nobody has edited it, so that a newer one may take its place."""
    match = SIGNATURE.search(text)
    return match is not None and _digest(text[: match.start() - 1]) == match[1]


def write_card(path: Path, card: Card) -> bool:
    """Returns whether it was written: a file that is there and that this did not write, or somebody edited, stays.

    Raises UserError where it cannot be written.
    """
    if path.exists() and not (path.is_file() and is_untouched(path.read_text(encoding="utf-8", errors="replace"))):
        return False
    write_text_atomic(path, card.text())
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _plain(text: str) -> str:
    """Text from files within Markdown: neither HTML nor Markdown of its own."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(printable(text), quote=False))


def _code(text: str) -> str:
    """Text within a string of Python, within a block of code."""
    return printable(text).replace("\\", "/").replace('"', "'").replace("`", "'")
