"""Following objects from frame to frame: ByteTrack (Zhang et al., 2022) as of the library `trackers`."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.results.instances import Instances

FAINT = 1 / 3  # of the score threshold: what scores so much goes on with an object that was found before


class Tracker:
    """Gives objects of one film numbers that stay theirs. rate: frames a second. score_threshold: of a new object.

    Raises UserError without the library.
    """

    def __init__(self, rate: float, score_threshold: float):
        with warnings.catch_warnings():  # OpenCV and others may warn on import
            warnings.simplefilter("ignore")
            try:
                import supervision
                from trackers import ByteTrackTracker
            except ImportError as error:
                raise UserError(
                    f"track: the library trackers cannot be used ({reason(error)}); "
                    "pip install 'mask-frozen-detr[track]'"
                ) from error
        self.score_threshold = score_threshold
        self._detections = supervision.Detections
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=score_threshold,
            high_conf_det_threshold=score_threshold,
            minimum_consecutive_frames=1,
        )

    @property
    def least_score(self) -> float:
        """What instances that it is given should score at least."""
        return self.score_threshold * FAINT

    def follow(self, found: Instances) -> Instances:
        """The next frame's instances with their `tracks`, -1 where an object was not seen before.

        Of those below the score threshold only objects that are followed already stay.
        """
        places: dict[str, Any] = {"place": np.arange(len(found))}
        seen = self._tracker.update(self._detections(xyxy=found.boxes, confidence=found.scores, data=places))
        tracks = np.full(len(found), -1, np.int64)
        if len(seen):
            tracks[np.asarray(seen.data["place"])] = np.asarray(seen.tracker_id)
        return replace(found, tracks=tracks)[(found.scores >= self.score_threshold) | (tracks >= 0)]
