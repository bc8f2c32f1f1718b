"""What kind of function a pattern is put around, and the wrapper that fits it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import weakref

from abc import ABC
from abc import abstractmethod
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Coroutine
from enum import Enum
from types import AsyncGeneratorType
from types import BuiltinFunctionType
from types import CodeType
from types import CoroutineType
from types import FrameType
from types import FunctionType
from types import GeneratorType
from types import MethodType
from types import NoneType
from typing import Any
from typing import ParamSpec
from typing import TypeVar
from typing import overload

from pytest_resilience.clock import in_a_loop
from pytest_resilience.locks import OfThisProcess


__all__ = [
    "FINISHED",
    "AwaitableMakers",
    "CallKind",
    "Decorator",
    "EnteredBlocks",
    "async_generator_around",
    "calls_first_argument",
    "close_unawaited",
    "generator_error",
    "innermost",
    "is_awaitable",
    "is_future",
    "kind_of",
    "not_callable",
    "when_done",
    "wrap",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


class CallKind(Enum):
    """How a callable runs."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


class Decorator(OfThisProcess, ABC):
    """A pattern that can be put around functions, which keep their signature and overloads."""

    __slots__ = ()

    # What is called with arguments it does not take must not pass type checkers. The second form
    # is for functions with overloads, which pyright takes for the first only once.
    @overload
    def __call__(self, func: Callable[_P, _R]) -> Callable[_P, _R]: ...
    @overload
    def __call__(self, func: _F) -> _F: ...
    def __call__(self, func: Any) -> Any:
        """Put the pattern around a function, as a decorator."""
        return self._decorate(func)

    @abstractmethod
    def _decorate(self, func: Any) -> Any:
        """The function in a wrapper of its own kind. Raises TypeError for what it cannot wrap."""


# An attribute of an Enum class is looked up slowly: once, not at each call.
_PLAIN, _COROUTINE = CallKind.PLAIN, CallKind.COROUTINE
_TESTS: tuple[tuple[Callable[[Any], bool], CallKind], ...] = (
    (inspect.iscoroutinefunction, CallKind.COROUTINE),
    (inspect.isasyncgenfunction, CallKind.ASYNC_GENERATOR),
    (inspect.isgeneratorfunction, CallKind.GENERATOR),
)
_KIND_OF_FLAG = {
    inspect.CO_COROUTINE: CallKind.COROUTINE,
    inspect.CO_ASYNC_GENERATOR: CallKind.ASYNC_GENERATOR,
    inspect.CO_GENERATOR: CallKind.GENERATOR,
    # Of `types.coroutine`: what it returns is awaited, as with other plain functions.
    inspect.CO_GENERATOR | inspect.CO_ITERABLE_COROUTINE: CallKind.PLAIN,
}
_ALL_FLAGS = (
    inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
    | inspect.CO_GENERATOR
    | inspect.CO_ITERABLE_COROUTINE
)
_CALLS_FIRST = "_calls_first_argument"
_KIND = "_kind_of_first_argument"


def _coroutine_mark() -> str:
    """The attribute that `inspect.markcoroutinefunction` leaves on a function; "" if none."""

    def marked() -> None: ...

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(marked)
    return next(iter(vars(marked)), "")


_MARK = _coroutine_mark()


def calls_first_argument(func: _F, kind: CallKind | None = None) -> _F:
    """Mark a function, or method, as one that calls its first argument with the others.

    It is then of that argument's kind: `breaker.call(retry.execute, fetch)` returns a coroutine
    where `fetch` is a coroutine function. `kind`: of a partial whose first argument is always of
    that kind.
    """
    setattr(func, _CALLS_FIRST, True)  # an attribute, so that `functools.wraps` hands it on
    if kind is not None:
        setattr(func, _KIND, kind)
    return func


def innermost(func: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """The user's function: what is called in the end when `func` is called with `args`."""
    while args and getattr(func, _CALLS_FIRST, None) is True:
        func, args = args[0], args[1:]
    return func


def kind_of(func: Any, args: tuple[Any, ...] = ()) -> CallKind:
    """The kind of `func`, called with `args`: seen through partials and objects with a `__call__`.

    Functions and methods, which nearly all are, are told apart by the flags of their code, in
    a fiftieth of the time that `inspect` takes.
    """
    shape = type(func)
    if shape is FunctionType:
        flag = func.__code__.co_flags & _ALL_FLAGS
        if flag:
            return _KIND_OF_FLAG[flag]
        if not _MARK or getattr(func, _MARK, None) is None:
            return _PLAIN
    elif shape is MethodType:
        calls_another = args and getattr(func, _CALLS_FIRST, None) is True
        return kind_of(args[0], args[1:]) if calls_another else kind_of(func.__func__)
    elif shape is BuiltinFunctionType:
        return _PLAIN
    elif isinstance(func, functools.partial):
        known: CallKind | None = getattr(func, _KIND, None)
        return kind_of(func.func, (*func.args, *args)) if known is None else known
    return _kind_of_object(func)


def not_callable(func: Any) -> TypeError:
    """What a pattern raises that is given something else than a function."""
    advice = "give it a function"
    if isinstance(func, (classmethod, staticmethod, property)):
        advice = f"put @{type(func).__name__} above the pattern's decorator"
    elif is_awaitable(func):
        advice = "give it the function and its arguments, and do not call it: f, x and not f(x)"
    return TypeError(f"{func!r} cannot be called; {advice}")


def _kind_of_object(func: Any) -> CallKind:
    if not callable(func) or isinstance(func, staticmethod):
        raise not_callable(func)
    kind = _kind_by_inspection(func)
    if kind is not _PLAIN:
        return kind
    call = getattr(type(func), "__call__", None)  # noqa: B004  # not whether, but which
    ordinary = isinstance(call, (FunctionType, functools.partial))
    return kind_of(call) if ordinary else _kind_by_inspection(call)


def _kind_by_inspection(func: Any) -> CallKind:
    if hasattr(func, "__code__") or hasattr(func, _MARK):  # `inspect` knows nothing of others
        return next((kind for test, kind in _TESTS if test(func)), _PLAIN)
    return _PLAIN


# A plain function may return what has yet to be awaited: a lambda, a `functools.wraps` around a
# coroutine function, singledispatch. Only its result tells, at each call.

_BUILT_IN = (NoneType, bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
_MOST_FINISHED = 1000  # types are kept alive by it, and each Mock has one of its own

# Types of results that are known not to be awaitable. `type(result) in FINISHED` is what a call
# can afford; `is_awaitable` is asked about all others, and adds to it.
FINISHED: set[type] = set(_BUILT_IN)


def is_awaitable(result: Any) -> bool:
    """Whether a result can be awaited."""
    shape = type(result)
    if shape in FINISHED:
        return False
    if shape is GeneratorType:  # of a `types.coroutine`, or of a generator function
        return bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    if hasattr(shape, "__await__"):
        return True
    if shape is not AsyncGeneratorType:  # which retries look at, as at generators
        if len(FINISHED) >= _MOST_FINISHED:
            FINISHED.clear()
            FINISHED.update(_BUILT_IN)
        FINISHED.add(shape)
    return False


def is_future(awaitable: Any) -> bool:
    """Whether it is a task or a future of asyncio: work that is done whether awaited or not."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio.isfuture(awaitable)


def when_done(
    future: Any, returned: Callable[[Any], object], raised: Callable[[BaseException], object]
) -> None:
    """Call one of the two with how `future` ends, before whoever awaits it goes on."""

    def done(future: Any) -> None:
        try:
            result = future.result()
        except BaseException as error:
            raised(error)
        else:
            returned(result)

    if future.done():
        done(future)
    else:
        future.add_done_callback(done)


class AwaitableMakers:
    """Plain functions that have returned what is to be awaited.

    Who calls one of them in a task need not stop the loop while it waits for its turn, as a plain
    call would; those whose turn it is may be tasks of that loop.
    """

    __slots__ = ("_codes", "_others")

    def __init__(self) -> None:
        # Whether it was a task or a future. A lambda that is made anew for each call has its code
        # in common with the others; what closures call is not known by that.
        self._codes: dict[CodeType, bool] = {}
        self._others: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def note(self, func: Any, awaitable: Any) -> None:
        """Remember that `func` has returned `awaitable`."""
        with contextlib.suppress(TypeError):  # of what cannot be a key
            if type(func) is FunctionType and func.__closure__ is None:
                self._codes[func.__code__] = is_future(awaitable)
            else:
                self._others[func] = is_future(awaitable)

    def begin(
        self,
        func: Any,
        run: Callable[[Any, tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What `run` returns for a function that is remembered, if called in a task; else None."""
        if not (self._codes or self._others) or not in_a_loop():
            return None
        makes_future: bool | None = None
        if type(func) is FunctionType and func.__closure__ is None:
            makes_future = self._codes.get(func.__code__)
        else:
            with contextlib.suppress(TypeError):
                makes_future = self._others.get(func)
        if makes_future is None:
            return None
        call = run(func, args, kwargs)
        if not makes_future:
            return call
        import asyncio

        return asyncio.ensure_future(call)


def close_unawaited(awaitable: Any) -> None:
    """Say of a result that nobody will await it: Python warns otherwise."""
    if isinstance(awaitable, (CoroutineType, GeneratorType)):
        awaitable.close()
    elif is_future(awaitable):
        awaitable.cancel()


def async_generator_around(
    func: Callable[..., Any],
    begin: Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[_T]],
    ended: Callable[[_T], Awaitable[None]],
    raised: Callable[[_T, BaseException], Awaitable[None]],
) -> Callable[..., Any]:
    """An async generator function that tells when each of its iterations begins, and how it ends.

    `begin` is given the arguments, as a tuple and a dict. `ended` and `raised` get what it
    returned. `raised` is told of GeneratorExit too: whoever iterates has had enough.
    """

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        begun = await begin(args, kwargs)
        try:
            inner = func(*args, **kwargs)
            step = inner.asend(None)
            while True:  # what `yield from` does, which async generators do not have
                item = await step
                try:
                    sent = yield item
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as error:
                    step = inner.athrow(error)
                else:
                    step = inner.asend(sent)
        except StopAsyncIteration:
            await ended(begun)
        except BaseException as error:
            await raised(begun, error)
            raise

    return wrapper


def generator_error(func: Any, kind: CallKind, advice: str) -> TypeError:
    """What a pattern raises that cannot be put around a generator function."""
    return TypeError(f"{func!r} is a {kind.value} function; {advice}")


def wrap(
    func: Callable[..., Any],
    wrap_plain: Callable[[Callable[..., Any]], Callable[..., Any]],
    run_coroutine: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Awaitable[Any]],
    no_generators: str | None = None,
) -> Any:
    """`func` in a wrapper of its own kind, with its name and signature.

    Args:
        func: a coroutine function, or any other.
        wrap_plain: makes the wrapper of what is no coroutine function. Each pattern writes its
            own: handing the call on to a method would double what the wrapper costs. So does
            an empty `**kwargs`, nearly: handed on, a dictionary is made of it.
        run_coroutine: calls and awaits `func` in the pattern, given it, `args` and `kwargs`.
        no_generators: raise TypeError with this advice for a generator function.
    """
    kind = kind_of(func)
    if kind is not _COROUTINE:
        if no_generators is not None and kind is not _PLAIN:
            raise generator_error(func, kind, no_generators)
        return functools.update_wrapper(wrap_plain(func), func)

    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await run_coroutine(func, args, kwargs)

    return wrapper


_MOST_ENTERED = 1000  # blocks, should some never be left


class EnteredBlocks(dict[FrameType, list[_T]]):
    """What is known of the blocks of a pattern that were entered and not left, by their frames.

    For where context variables cannot tell which one is left: the two halves of a generator may
    run in different threads or contexts, as those of a dependency of FastAPI do, and generators
    end in any order. Its frame stays the same. The keys are the frames themselves, for their
    numbers would be given again.
    """

    __slots__ = ()

    def enter(self, frame: FrameType, block: _T) -> None:
        """Note a block of the frame that called `__enter__`, or `__aenter__`."""
        if len(self) >= _MOST_ENTERED:
            self.clear()
        self.setdefault(frame, []).append(block)

    def leave(self, frame: FrameType) -> _T | None:
        """The block of the frame that called `__exit__`; None if it has none, as ExitStack's."""
        return self._take(frame, -1) if frame in self else None

    def leave_this(self, block: _T) -> bool:
        """Note that a block was left, whatever its frame. False if it was before."""
        for frame, blocks in self.copy().items():
            for index, each in enumerate(blocks):
                if each is block:
                    self._take(frame, index)
                    return True
        return False

    def leave_latest(self) -> _T | None:
        """The block that was entered last; None if there is none."""
        frame = next(reversed(self), None)
        return None if frame is None else self._take(frame, -1)

    def _take(self, frame: FrameType, index: int) -> _T:
        blocks = self[frame]
        block = blocks.pop(index)
        if not blocks:
            del self[frame]
        return block
