"""Work on many threads with results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """`map` on threads, for functions that release the GIL.

    Items are taken only a little ahead of the results, so memory stays bounded.

    Args:
        function: called in worker threads.
        items: taken one by one in the calling thread.
        num_workers: number of threads; with one, the work still runs beside the caller.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
