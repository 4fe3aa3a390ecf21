"""`python -m campaign`: tries of every kind, counted."""

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything of Hugging Face is imported

from campaign.attempts import attempt, attempts
from campaign.bench import Bench, Kind, Try, build
from campaign.kinds import KINDS
from campaign.warm import prepare

SHOWN = 3  # faults of a try that are printed


def share_out(
    kind: Kind, bench: Bench, seed: int, numbers: range, jobs: int, until: float
) -> Iterator[tuple[int, Try]]:
    """Tries in so many processes, until a moment at the latest."""
    if jobs == 1:
        yield from attempts(kind, bench, seed, numbers, until)
        return
    context = multiprocessing.get_context("fork")
    processes, ends = [], []
    for job in range(jobs):
        here, there = context.Pipe(duplex=False)

        def work(end: Connection = there, share: range = numbers[job::jobs]) -> None:
            for entry in attempts(kind, bench, seed, share, until):
                end.send(entry)

        processes.append(context.Process(target=work))
        processes[-1].start()
        there.close()
        ends.append(here)
    while ends:
        for end in wait(ends):
            assert isinstance(end, Connection)
            try:
                yield end.recv()
            except EOFError:
                ends.remove(end)
    for process in processes:
        process.join()


def processor_seconds() -> float:
    """Of this process and all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other tries")
    parser.add_argument("--tries", type=int, default=60, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--try", type=int, dest="number", metavar="N", help="repeat one try of one kind")
    parser.add_argument("--seconds", type=float, default=120, help="that a kind may take at most")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--keep", action="store_true", help="with --try: leave its folder")
    options = parser.parse_args()
    # In memory where that is possible: a disk's flushes take most of the time.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="campaign-", dir=memory))
    try:
        bench = Bench(root)
        prepare(bench)
        build(bench)
        chosen = [KINDS[name] for name in options.kind or KINDS]
        if options.number is not None:
            return _repeat(chosen, bench, options)
        failures = 0
        print(f"seed {options.seed}\n{'kind':<16}{'tries':>6}{'fell short':>12}{'core s a try':>14}", flush=True)
        for kind in chosen:
            failures += _try(kind, bench, options)
        return int(failures > 0)
    finally:
        if not options.keep:
            shutil.rmtree(root)


def _repeat(chosen: list[Kind], bench: Bench, options: argparse.Namespace) -> int:
    if len(chosen) != 1:
        sys.exit("--try: expected one --kind")
    found = attempt(chosen[0], bench, options.seed, options.number, options.keep)
    print(found.what, *found.faults, sep="\n  ")
    return int(bool(found.faults))


def _try(kind: Kind, bench: Bench, options: argparse.Namespace) -> int:
    """All tries of a kind; how many fell short. The first of each sort is told at once, and how to repeat it."""
    until, used = time.monotonic() + options.seconds, processor_seconds()
    numbers = range(options.first, options.first + options.tries)
    tries, failures, sorts = 0, 0, set()
    for number, one in share_out(kind, bench, options.seed, numbers, options.jobs, until):
        tries += 1
        if not one.faults:
            continue
        failures += 1
        sort = one.faults[0].split(":")[0][:60]
        if sort not in sorts:
            sorts.add(sort)
            print(f"  --kind {kind.name} --seed {options.seed} --try {number}: {one.what[:300]}")
            for fault in one.faults[:SHOWN]:
                print(f"      {fault[-600:]}", flush=True)
    each = (processor_seconds() - used) / max(1, tries)
    print(f"{kind.name:<16}{tries:>6}{failures:>12}{each:>14.2f}  {kind.about}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
