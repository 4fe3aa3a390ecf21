"""All kinds of faults that the campaign tries."""

from campaign import (
    changes,
    damage,
    disks,
    foreign_files,
    hostile_input,
    kills,
    odd_pictures,
    other_commands,
    other_formats,
)
from campaign.bench import Kind

KINDS = {
    kind.name: kind
    for kind in (
        Kind("kills", "runs killed 1 to 3 times and resumed", kills.killed_and_resumed, forks=True),
        Kind("start", "processes interrupted while they start", kills.signals_at_the_start, forks=True),
        Kind("two-runs", "two commands on one folder", kills.two_runs_one_folder, forks=True),
        Kind("changed-resume", "data or detector changed before --resume", changes.before_resume),
        Kind("changed-use", "detector changed before predict or evaluate", changes.before_use),
        Kind("weights", "damaged weights and descriptions", damage.weights_of_runs),
        Kind("records", "damaged checkpoints and records", damage.records_of_runs),
        Kind("cache", "damaged caches", damage.cached_outputs),
        Kind("data", "damaged annotations and pictures", damage.data_files),
        Kind("json", "hostile annotations", hostile_input.annotations),
        Kind("formats", "hostile YOLO, LabelMe, VOC, panoptic, VIA", other_formats.tried),
        Kind("run-folders", "hostile run folders", hostile_input.run_folders),
        Kind("detectors", "hostile detector folders", hostile_input.detector_folders),
        Kind("pictures", "odd pictures, predicted", odd_pictures.predicted),
        Kind("data-pictures", "odd pictures in data", odd_pictures.of_data),
        Kind("annotate", "hostile boxes and pictures, annotated", other_commands.annotated),
        Kind("films", "spoilt films, predicted", other_commands.films),
        Kind("exported", "hostile exported models", other_commands.exported),
        Kind("inspect", "hostile data, inspected", other_commands.inspected),
        Kind("compare", "hostile results and figures, compared", other_commands.compared),
        Kind("benchmark", "odd pictures, timed", other_commands.benchmarked),
        Kind("foreign", "files of the user's where output goes", foreign_files.tried),
        Kind("full-disk", "full disks and quotas", disks.full),
        Kind("read-only", "output where none can be", disks.read_only),
    )
}
