"""`python -m campaign`: tries of every kind, counted."""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything of Hugging Face is imported

from campaign.bench import Bench, Kind, Try, build
from campaign.kinds import KINDS
from campaign.warm import prepare

SHOWN = 3  # failures of a kind that are printed in full


def attempt(kind: Kind, bench: Bench, seed: int, number: int, keep: bool = False) -> Try:
    """One try. keep: leave its folder, and say where."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.name}-{number}-", dir=bench.root))
    try:
        return kind.attempt(bench, Random(f"{kind.name} {seed} {number}"), folder)
    except Exception:  # the campaign itself: to be mended, not to be passed over
        return Try("", [f"the campaign fell short: {traceback.format_exc()}"])
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def attempts(kind: Kind, bench: Bench, seed: int, numbers: range, jobs: int, until: float) -> list[tuple[int, Try]]:
    """Tries in so many processes, until a moment at the latest."""
    if jobs == 1:
        return [(number, attempt(kind, bench, seed, number)) for number in numbers if time.monotonic() < until]
    context = multiprocessing.get_context("fork")
    ends = []
    for job in range(jobs):
        here, there = context.Pipe(duplex=False)
        share = numbers[job::jobs]

        def work(end=there, share=share) -> None:
            end.send(attempts(kind, bench, seed, share, 1, until))

        process = context.Process(target=work)
        process.start()
        ends.append((here, process))
    found = [entry for here, _ in ends for entry in here.recv()]
    for _, process in ends:
        process.join()
    return sorted(found, key=lambda entry: entry[0])


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
        print(
            f"seed {options.seed}\n{'kind':<18}{'tries':>6}{'fell short':>12}{'seconds':>9}  what is tried", flush=True
        )
        for kind in chosen:
            began = time.monotonic()
            numbers = range(options.first, options.first + options.tries)
            found = attempts(kind, bench, options.seed, numbers, options.jobs, began + options.seconds)
            failed = [(number, one) for number, one in found if one.faults]
            failures += len(failed)
            seconds = time.monotonic() - began
            print(f"{kind.name:<18}{len(found):>6}{len(failed):>12}{seconds:>9.0f}  {kind.about}", flush=True)
            _tell(kind, failed, options.seed)
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


def _tell(kind: Kind, failed: list[tuple[int, Try]], seed: int) -> None:
    """The first failure of each sort, and how to repeat it."""
    sorts: dict[str, list[tuple[int, Try]]] = {}
    for number, one in failed:
        sorts.setdefault(one.faults[0].split(":")[0][:60], []).append((number, one))
    for alike in sorted(sorts.values(), key=len, reverse=True):
        number, one = alike[0]
        print(f"  {len(alike)} × --kind {kind.name} --seed {seed} --try {number}: {one.what[:300]}")
        for fault in one.faults[:SHOWN]:
            print(f"      {fault[:600]}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
