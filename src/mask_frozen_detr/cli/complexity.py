"""`complexity`: what the paper's networks cost."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Complexity:
    """Parameters and multiply-accumulates of the paper's tables, ours beside the paper's."""

    # One table of the paper; by default all of them.
    table: int | None = None
    # Write all figures into this file.
    json: Path | None = None

    def run(self) -> None:
        from mask_frozen_detr.machine.files import write_json_atomic
        from mask_frozen_detr.paper.complexity import as_json, complexity_rows, format_table

        rows = complexity_rows(self.table)
        print(format_table(rows))
        if self.json is not None:
            write_json_atomic(self.json, as_json(rows))
