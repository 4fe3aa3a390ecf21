"""The first pseudo-masks of a data set, from pixels, boxes and what the detector sees in them, picture by picture."""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.loaders import Watched
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.machine.signals import leave_signals_to_parent
from mask_frozen_detr.training.enough_memory import enough_memory
from mask_frozen_detr.training.pseudo_masks.soft_cut import corners, soft_cut
from mask_frozen_detr.training.pseudo_masks.store import PseudoMasks


class Drawing(Dataset[str]):
    """Pictures whose masks are drawn and written as they are asked for; each gives why it cannot be, or nothing."""

    def __init__(self, records: Sequence[ImageRecord], store: PseudoMasks):
        self.records, self.store = records, store

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> str:
        record = self.records[index]
        try:
            image = open_picture(record, record.orientation)
        except UserError as error:
            return str(error)
        objects, evidence = self.store.objects(record), self.store.evidence
        with enough_memory([record.path], "drawing its pseudo-masks"):
            told = None if evidence is None else evidence.of(image, objects).astype(np.float16)
            masks = [
                soft_cut(image, corners(annotation), None if told is None else told[number])
                for number, annotation in enumerate(objects)
            ]
        self.store.write(record, np.stack(masks), told)
        return ""


def draw_missing(store: PseudoMasks, records: Sequence[ImageRecord], workers: int, quiet: bool) -> None:
    """Draw what is not there yet; of several processes each its share.

    A detector that is asked lies in this process, which then draws alone. Pictures that cannot be read are left out,
    as training leaves them out. Raises UserError where a file cannot be written.
    """
    workers = workers if store.evidence is None else 0
    state = processes()
    missing = missing_of(store, records[state.process_index :: state.num_processes])
    bar = Progress("drawing pseudo-masks", len(missing), quiet=quiet or not missing or not state.is_main_process)
    source = Watched(Drawing(missing, store), [record.path for record in missing], workers)
    remedy = "fewer --workers need less, and the same command goes on"
    drawn = source.load(remedy, batch_size=None, worker_init_fn=leave_signals_to_parent)
    for done, _ in enumerate(drawn, 1):
        bar.update(done)
    bar.close()
    state.wait_for_everyone()


def missing_of(store: PseudoMasks, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images whose masks are to be drawn, without those that cannot be read: training names them."""
    missing = []
    for record in records:
        try:
            if not store.has(record):
                missing.append(record)
        except UserError:
            continue
    return missing
