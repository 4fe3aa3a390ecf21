"""A small sample of the campaign of faults: `make campaign` runs it at length."""

from pathlib import Path

import pytest
from nursery import NURSERY

from campaign.kinds import KINDS

# A try of each kind, of those that take little time; to export a model takes longer than all of them.
SAMPLE = {
    **{"kills": 1, "start": 0, "two-runs": 2, "changed-resume": 0, "changed-use": 0, "weights": 2, "records": 0},
    **{"cache": 2, "data": 2, "json": 1, "formats": 0, "run-folders": 0, "detectors": 0, "pictures": 2},
    **{"annotate": 0, "films": 0, "inspect": 0, "compare": 0, "benchmark": 0},
    **{"data-pictures": 1, "foreign": 2, "full-disk": 2, "read-only": 2},
}


def _sample(numbers: dict[str, int], root: str, found) -> None:
    """In a process that has run no threads: its commands are forks of it."""
    from campaign.attempts import attempts
    from campaign.bench import Bench, build
    from campaign.warm import prepare

    bench = Bench(Path(root))
    prepare(bench)
    build(bench)
    for name, number in numbers.items():
        for entry in attempts(KINDS[name], bench, 0, [number], float("inf")):
            found.send((name, entry[1]))
    found.close()


def test_one_try_of_each_kind(tmp_path):
    assert SAMPLE.keys() == KINDS.keys() - {"exported"}
    here, there = NURSERY.Pipe(duplex=False)
    child = NURSERY.Process(target=_sample, args=(SAMPLE, str(tmp_path), there))
    child.start()
    there.close()
    failed = []
    for _ in SAMPLE:
        name, one = here.recv()
        failed += [f"--kind {name} --seed 0 --try {SAMPLE[name]}: {one.what}: {fault}" for fault in one.faults]
    child.join(timeout=60)
    assert not failed, "\n".join(failed)


def test_faults_are_seen():
    """The judge of a command's manners would pass none of these."""
    from campaign.commands import Ran, manners

    good = Ran(2, "mask-frozen-detr: a.json: is empty, expected JSON\n", 1.0, 10.0)
    assert not manners(good)
    for fault, ran in {
        "traceback": Ran(1, "Traceback (most recent call last):\nKeyError: 1\n", 1.0, 10.0),
        "exit code": Ran(-11, "", 1.0, 10.0),
        "without a word": Ran(2, "", 1.0, 10.0),
        "hangs": Ran(-9, "", 99.0, 10.0, late=True),
        "memory": Ran(0, "", 1.0, 9000.0),
        "control character": Ran(0, "a \x1b[31mred\x1b[0m name", 1.0, 10.0),
    }.items():
        assert any(fault in found for found in manners(ran)), fault


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_told_apart(name):
    assert KINDS[name].name == name
    assert KINDS[name].about
