"""What waits in a task: under asyncio and under trio, and so under anyio on either."""

from __future__ import annotations

import contextlib
import sys

from collections.abc import Callable
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING
from typing import Any
from typing import Self

from pytest_resilience.clock import in_trio


if TYPE_CHECKING:
    from asyncio import Timeout

__all__ = [
    "Tasks", "Waker", "explain_missing_loop", "is_of_caller", "outcome_of", "timeout", "wait_for",
]  # fmt: skip


class Waker:
    """Lets one task wait until any thread, or task, wakes it."""

    def __init__(self) -> None:
        """Of the current task."""
        self._trio = in_trio()
        self._event: Any
        if self._trio:
            import trio

            self._event = trio.Event()
            self._soon: Any = trio.lowlevel.current_trio_token().run_sync_soon
            self._gone: type[Exception] = trio.RunFinishedError
        else:
            import asyncio

            self._event = asyncio.Event()
            self._soon = asyncio.get_running_loop().call_soon_threadsafe
            self._gone = RuntimeError  # the loop has been closed meanwhile

    def wake(self) -> None:
        """End the wait. Harmless when nobody waits any more."""
        with contextlib.suppress(self._gone):
            self._soon(self._event.set)

    def wake_here(self) -> None:
        """Do as `wake` does, in another task of the same loop: in a tenth of the time."""
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait until it is woken, or until `seconds` of real time are over."""
        with contextlib.suppress(TimeoutError):
            if seconds is None:
                await self._event.wait()
            else:
                async with timeout(seconds):
                    await self._event.wait()


class Tasks:
    """Tasks of one block. Those that still run as it ends are cancelled, and waited for."""

    def __init__(self) -> None:
        self._trio = in_trio()
        self._tasks: set[Any] = set()
        self._nursery: Any = None

    async def __aenter__(self) -> Self:
        if self._trio:
            import trio

            self._manager = trio.open_nursery()
            self._nursery = await self._manager.__aenter__()
        return self

    def start(self, func: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a coroutine function that raises nothing but cancellation."""
        if self._nursery is not None:
            self._nursery.start_soon(func, *args)
            return
        import asyncio

        self._tasks.add(asyncio.create_task(func(*args)))

    async def __aexit__(self, *_: object) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)
        elif self._tasks:
            import asyncio

            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


async def wait_for(future: Future[Any], seconds: float | None) -> bool:
    """Whether a thread's `future` is done in time; nothing is done to it."""
    if not future.done():
        waker = Waker()
        future.add_done_callback(lambda _: waker.wake())
        await waker.wait(seconds)
    return future.done()


def outcome_of(future: Future[Any]) -> Any:
    """What a future that is done says, in a coroutine: none can raise StopIteration."""
    try:
        return future.result()
    except StopIteration as stop:
        raise RuntimeError(f"the call raised {stop!r}") from stop
    finally:
        del future  # the error's traceback holds this frame: a cycle


def explain_missing_loop(error: BaseException) -> None:
    """Note why a function that makes a task or a future, as few plain ones do, found no loop."""
    if type(error) is RuntimeError and "event loop" in str(error):
        error.add_note(
            "It was called in a thread of its own, which has no event loop: make it an `async def`."
        )


def is_of_caller(error: BaseException) -> bool:
    """Whether what an awaited function raised is meant for the task that awaits it.

    Cancellation is, unless it is of a task of the function's own. So is KeyboardInterrupt, while
    what else is no `Exception`, as SystemExit, ends the function only.
    """
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    if asyncio is not None and isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    if trio is not None and isinstance(error, trio.Cancelled):
        return True
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


class _TrioTimeout:
    """What `asyncio.timeout` is, for trio."""

    def __init__(self, seconds: float) -> None:
        import trio

        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    def expired(self) -> bool:
        return self._scope.cancelled_caught

    async def __aenter__(self) -> Self:
        self._scope.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        absorbed = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise TimeoutError from error
        return bool(absorbed)


def timeout(seconds: float) -> Timeout:
    """`asyncio.timeout`, or what is the same for trio where that runs."""
    if in_trio():
        return _TrioTimeout(seconds)  # type: ignore[return-value]
    import asyncio

    return asyncio.timeout(seconds)
