"""Work in three stages that overlap: what comes before a model and after it runs in threads, the model never waits.

Pillow lets other threads run while it decodes, numpy while it computes, as torch does.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Output = TypeVar("Output")
Result = TypeVar("Result")

AHEAD = 2  # batches that are made ready, and as many that are finished: memory holds no more


class Flow(Generic[Item, Ready, Output, Result]):
    """Items that threads prepare and finish while the caller's thread, or others beside it, computes.

    prepare: an item made ready, in a thread. together: the outputs of several ready items, in the caller's thread.
    finish: the result of a ready item and its output, in a thread. batch: ready items that go together. lanes: calls
    of `together` at once, each in a thread of its own; 0 makes one, in the caller's. threads: 0 does all of it where
    `together` runs: lanes that have a core each need no others beside them.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Ready],
        together: Callable[[Sequence[Ready]], Sequence[Output]],
        finish: Callable[[Item, Ready, Output], Result],
        batch: int,
        threads: int,
        lanes: int = 0,
    ):
        self.prepare, self.together, self.finish = prepare, together, finish
        self.batch, self.threads, self.lanes = batch, threads, lanes

    def over(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result | Exception]]:
        """Each item with its result, or with what went wrong on it, in the items' order.

        Where a batch fails its items are tried one by one, so that a bad one costs no other its result. What is left
        when the caller leaves is not begun any more.
        """
        source = iter(items)
        pool = ThreadPoolExecutor(self.threads) if self.threads else None
        lanes = ThreadPoolExecutor(self.lanes) if self.lanes else None
        made_ready: deque[tuple[Item, Future[Ready] | None]] = deque()
        computing: deque[Future[list[tuple[Item, Future[Result]]]]] = deque()
        finished: deque[tuple[Item, Future[Result]]] = deque()
        try:
            while True:
                for item in islice(source, self.batch * (AHEAD + self.lanes) - len(made_ready)):
                    made_ready.append((item, None if pool is None else pool.submit(self.prepare, item)))
                try:
                    while made_ready and len(computing) <= self.lanes:  # one waits, so that no lane does
                        batch = [made_ready.popleft() for _ in range(min(self.batch, len(made_ready)))]
                        computing.append(_submit(lanes, self._model, batch, pool))
                    if not computing:
                        break
                    finished.extend(computing[0].result())
                    computing.popleft()
                except BaseException:  # a signal: what has been through the model already, or is in it, is not lost
                    begun = [one for one in computing if not one.cancel()]
                    for one in begun:
                        if one.exception() is None:
                            finished.extend(one.result())
                    while finished:
                        yield self._outcome(finished.popleft())
                    raise
                while len(finished) > self.batch * AHEAD or (finished and finished[0][1].done()):
                    yield self._outcome(finished.popleft())
            while finished:
                yield self._outcome(finished.popleft())
        finally:
            if lanes is not None:  # first: they still have items to hand to the other threads
                lanes.shutdown(cancel_futures=True)
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _outcome(self, finished: tuple[Item, Future[Result]]) -> tuple[Item, Result | Exception]:
        item, future = finished
        error = future.exception()
        if error is None:
            return item, future.result()
        if isinstance(error, Exception):
            return item, error
        raise error  # a signal's, which ends all

    def _model(
        self, items: Sequence[tuple[Item, Future[Ready] | None]], pool: ThreadPoolExecutor | None
    ) -> list[tuple[Item, Future[Result]]]:
        """One batch through the model, and its finishing begun; in the items' order. Without a pool all of it."""
        ready: dict[int, Ready] = {}
        done: dict[int, Future[Result]] = {}
        for number, (item, begun) in enumerate(items):
            future = begun or _submit(pool, self.prepare, item)
            error = future.exception()
            if error is None:
                ready[number] = future.result()
            else:
                done[number] = _failed(error)
        for number, output in self._outputs(ready).items():
            if isinstance(output, Exception):
                done[number] = _failed(output)
            else:
                done[number] = _submit(pool, self.finish, items[number][0], ready[number], output)
        return [(item, done[number]) for number, (item, _) in enumerate(items)]

    def _outputs(self, ready: dict[int, Ready]) -> dict[int, Output | Exception]:
        try:
            return dict(zip(ready, self.together(list(ready.values())), strict=True)) if ready else {}
        except Exception as error:
            if len(ready) == 1:
                return dict.fromkeys(ready, error)
        alone: dict[int, Output | Exception] = {}
        for number, one in ready.items():
            alone |= self._outputs({number: one})
        return alone


def _submit(pool: ThreadPoolExecutor | None, work: Callable[..., Result], *arguments: object) -> "Future[Result]":
    if pool is not None:
        return pool.submit(work, *arguments)
    future: Future[Result] = Future()
    try:
        future.set_result(work(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def _failed(error: BaseException) -> "Future[Result]":
    future: Future[Result] = Future()
    future.set_exception(error)
    return future
