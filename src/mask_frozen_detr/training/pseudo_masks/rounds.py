"""When pseudo-masks are drawn: before a run from pixels, boxes and evidence, between its rounds by its network, too."""

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.pseudo_masks.draw import draw_missing, missing_of
from mask_frozen_detr.training.pseudo_masks.redraw import redraw_missing
from mask_frozen_detr.training.pseudo_masks.store import count_masks
from mask_frozen_detr.training.samples import TrainingData
from mask_frozen_detr.training.state import RunState


class Rounds:
    """The rounds of a run of so many steps. ends: the steps after which the masks are drawn anew.

    Which masks a step learns from depends on its number alone, and the first step of a round is never done before all
    of its masks are written. So a run that is killed goes on with the masks it would have had.
    """

    def __init__(
        self,
        model: MaskFrozenDetr,
        dataset: TrainingData,
        config: TrainConfig,
        steps: int,
        cache: FrozenCache | None,
        progress: Progress,
    ):
        self.model, self.dataset, self.cache, self.progress = model, dataset, cache, progress
        self.ends = config.round_ends(steps)
        self.workers = max(0, config.workers)
        if dataset.pseudo_masks is not None:
            progress.print(describe(dataset))

    def end_at(self, step: int) -> bool:
        """Whether the masks are drawn anew after this step."""
        return step in self.ends

    def draw(self, run: RunState) -> None:
        """What the next step learns from, as far as it is not there yet.

        Raises UserError where a file cannot be written, and where masks are gone that an earlier network drew.
        """
        store = self.dataset.pseudo_masks
        if store is None:
            return
        following = 1 + sum(run.step >= end for end in self.ends)
        with self.progress.paused():
            if following == 1 or self.end_at(run.step):
                # What the detector tells of objects is kept beside the first masks, and a cache may have lost them.
                store.round = 1
                draw_missing(store, self.dataset.images, self.workers, self.progress.quiet)
            store.round = following
            if self.end_at(run.step):
                with run.evaluated():
                    redraw_missing(store, self.model, self.dataset, self.cache, self.progress.quiet)
            elif following > 1 and (missing := missing_of(store, self.dataset.images)):
                raise UserError(
                    f"{store.path(missing[0])}: the pseudo-masks of {len(missing)} images are gone, which the network "
                    "drew that the run had then; start anew, with --overwrite or another --output"
                )


def describe(dataset: TrainingData) -> str:
    """What is learned from, for the user."""
    assert dataset.pseudo_masks is not None
    masks_from = dataset.pseudo_masks.masks_from
    true, drawn, unseen = count_masks(masks_from, dataset.images)
    if not drawn:
        return f"--masks-from {masks_from}: every object has a mask; trained as usual"
    said = f"--masks-from {masks_from}: {drawn} objects get pseudo-masks, {true} keep their true mask"
    return f"{said}; {unseen} masks of the annotations are not looked at" if unseen else said
