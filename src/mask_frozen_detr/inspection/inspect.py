"""`inspect_data`: a look at a data set and, given a detector, at how the two go together."""

from collections.abc import Callable

from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.load import Data
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.inspection.facts import facts_of
from mask_frozen_detr.inspection.oddities import oddities
from mask_frozen_detr.inspection.pictures import draw_pairs
from mask_frozen_detr.inspection.recall import measure_recall
from mask_frozen_detr.inspection.report import Inspection
from mask_frozen_detr.training.config import AugmentConfig


def inspect_data(
    data: Data,
    detector: FrozenDetector | None = None,
    pictures: int = 0,
    recall_images: int = 200,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Counts, faults and suspicious things of each split; with a detector, its class map and its recall.

    pictures: how many images of each split to draw, as they lie and as training may see them.
    recall_images: of val, or train where there is none, the first so many. report: called with images done and in all.
    Raises UserError where no class of the data is one of the detector's.
    """
    splits = {"train": data.train, **({"val": data.val} if data.val is not None else {})}
    name, recall, classes = None, None, None
    of = "val" if data.val is not None else "train"
    if detector is not None:
        name = detector.info.identity.name
        matched = classes_of(data.train, detector.info.class_names)
        classes = matched.summary()
        if data.val is not None:
            matched = classes_of(data.val, detector.info.class_names, matched.run)
        images = splits[of].images[:recall_images]
        total = len(images)
        recall = measure_recall(detector, images, matched, splits[of].categories, lambda done: report(done, total))
    edges = None
    if detector is not None and detector.info.preprocessing.resizes_freely:
        edges = detector.info.preprocessing.edges
    drawn, problems = {}, [] if recall is None else list(recall.problems)
    for split, content in splits.items():
        drawn[split], failed = draw_pairs(content, pictures, AugmentConfig(), edges)
        problems += failed
    return Inspection(
        [facts_of(split, content) for split, content in splits.items()],
        oddities(splits),
        data.note,
        name,
        classes,
        of,
        recall,
        drawn,
        problems,
    )
