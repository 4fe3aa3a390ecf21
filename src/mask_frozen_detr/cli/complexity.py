"""`complexity`: what the paper's networks cost."""

import json
from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.cli.loading import check_place
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.json_files import LIMIT
from mask_frozen_detr.machine.regular_files import read_regular


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

        if self.json is not None:
            check_place(self.json)
            _check_ours(self.json)
        rows = complexity_rows(self.table)
        print(format_table(rows))
        if self.json is not None:
            write_json_atomic(self.json, as_json(rows))


def _check_ours(path: Path) -> None:
    """Raises UserError where `path` is there already and holds something else than figures of this command."""
    if not path.exists():
        return
    try:
        rows = json.loads(read_regular(path, LIMIT))
        ours = {"table", "row", "params", "macs"} <= set(rows[0])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise UserError(f"{path}: is there already and holds no figures of `complexity`; name another file")
