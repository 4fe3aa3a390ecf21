"""`reproduce`: a table of the paper on a small budget."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from mask_frozen_detr.cli.positionals import DataPath, DetectorName
from mask_frozen_detr.errors import UserError, safe
from mask_frozen_detr.paper.config import ReproduceConfig


@dataclass
class Reproduce:
    """Train every row of a table of the paper for an equal, small budget, and compare their order with the paper's.

    Given again, the command goes on where it stopped. Equal by default are iterations, as in the paper: a --budget of
    time is turned into as many as the slowest row of the table manages in it, by a few steps of each row that are
    timed first. See docs/reproducing.md.
    """

    # table1 … table16.
    table: Positional[Annotated[str, tyro.conf.arg(metavar="TABLE")]]
    # The detector: a Hugging Face id, a folder in transformers' format, or an official checkpoint file.
    detector: DetectorName
    # Data in COCO format: a folder with train and val splits.
    data: DataPath
    # Where runs, figures and plot go; by default reproduce-TABLE.
    output: Path | None = None
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # The classes of a detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit of a detector on the hub.
    revision: str | None = None
    # How all rows are trained and measured alike.
    training: OmitArgPrefixes[ReproduceConfig] = field(default_factory=ReproduceConfig)

    def run(self) -> None:
        from mask_frozen_detr.cli.loading import choose_device
        from mask_frozen_detr.paper.reproduce import REPORT_FILE, failures, reproduce, summary
        from mask_frozen_detr.paper.reproduce_plan import read_table

        table = read_table(self.table)
        choose_device(self.device)
        output = self.output or Path(f"reproduce-table{table}")
        result = reproduce(table, self.detector, self.data, output, self.training, self.revision, self.prompt)
        print(safe(f"{summary(result)}\n{output / REPORT_FILE}"))
        failed = failures(result)
        if failed:
            raise UserError(f"{len(failed)} runs failed, the same command tries them again: {'; '.join(failed)}")
