"""`serve`: a run in the browser."""

from dataclasses import dataclass

from mask_frozen_detr.cli.loading import check_at_least
from mask_frozen_detr.cli.positionals import RunName
from mask_frozen_detr.errors import UserError


@dataclass
class Serve:
    """A page in the browser: drop a picture, see its masks, draw boxes, take COCO, YOLO or PNG home."""

    # A run folder, or a hub repository of one.
    run_folder: RunName
    # Who may look: 127.0.0.1 is this machine alone, 0.0.0.0 everybody who can reach it.
    host: str = "127.0.0.1"
    # Where in the browser: http://HOST:PORT
    port: int = 7860
    # Where to compute: cpu, cuda, cuda:1, mps. By default the fastest that is there.
    device: str | None = None
    # Where the run's detector lies now, if it has moved.
    detector: str | None = None
    # Other classes for a detector that takes text, as "cat. dog."
    prompt: str | None = None
    # Branch, tag or commit on the hub.
    revision: str | None = None

    def __post_init__(self) -> None:
        check_at_least(1, port=self.port)
        if self.port > 65535:
            raise UserError(f"port: found {self.port}, expected at most 65535")

    def run(self) -> None:
        from mask_frozen_detr.cli.loading import choose_device
        from mask_frozen_detr.serving.app import serve

        device = str(choose_device(self.device))
        serve(self.run_folder, self.host, self.port, self.detector, self.revision, device, self.prompt)
