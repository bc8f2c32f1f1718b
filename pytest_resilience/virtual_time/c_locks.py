"""Waits for locks in C, which are older than the clock: they cannot be parks, but can be told."""

from __future__ import annotations

import _queue
import _thread
import ast
import itertools
import linecache
import sys
import types

from collections.abc import Mapping
from types import FrameType
from typing import Any

from pytest_resilience.stacks import is_ours


__all__ = ["frame_of", "has_a_timeout", "is_in_a_lock_of_c", "waits_for_ever"]

# As they are now: with a clock others are made by these names.
_IN_C = (_thread.LockType, _thread.RLock, _queue.SimpleQueue)
_METHODS_IN_C = (types.BuiltinMethodType, types.MethodWrapperType)
_FUNCTIONS_IN_C = (types.MethodDescriptorType, types.WrapperDescriptorType)
_DESCRIPTORS_IN_C = (types.GetSetDescriptorType, types.MemberDescriptorType)


def frame_of(ident: int) -> FrameType | None:
    """The innermost one of a thread; None if it has ended."""
    return sys._current_frames().get(ident)  # noqa: SLF001  # there is no other way


def is_in_a_lock_of_c(frame: FrameType) -> bool:
    """Whether what a blocked thread's innermost frame calls or enters is a lock or queue in C.

    As far as its line leads there by names, and by what is called `acquire`. What this package
    enters does not count: it holds its own locks for moments only.
    """
    statement = _statement(frame)
    if is_ours(frame.f_code.co_filename) and not _is_a_call(statement):
        return False
    return any(_leads_to_a_lock_of_c(each, frame) for each in _called(statement))


def has_a_timeout(frame: FrameType) -> bool:
    """Whether what a thread's innermost frame calls is given one, as `acquire` and `get` are."""
    call = getattr(_statement(frame), "value", None)
    if not isinstance(call, ast.Call):
        return False
    given = [*call.args[1:], *(each.value for each in call.keywords if each.arg == "timeout")]
    return any(ast.unparse(each) not in {"-1", "None"} for each in given)


def waits_for_ever(frame: FrameType) -> bool:
    """Whether it is certainly given none: what is passed on in a `*` may be one."""
    call = getattr(_statement(frame), "value", None)
    passed_on = isinstance(call, ast.Call) and (
        any(isinstance(each, ast.Starred) for each in call.args)
        or any(each.arg is None for each in call.keywords)
    )
    return not passed_on and not has_a_timeout(frame)


def _leads_to_a_lock_of_c(called: ast.expr, frame: FrameType) -> bool:
    names: list[str] = []
    owner = called
    while isinstance(owner, ast.Attribute):
        names.insert(0, owner.attr)
        owner = owner.value
    if isinstance(owner, ast.Name):
        found = frame.f_locals.get(owner.id, frame.f_globals.get(owner.id))
        while names and not _is_in_c(found) and names[0] in _attributes(found):
            found = _attributes(found)[names.pop(0)]
        if _is_in_c(found) or _is_method_in_c(found):
            return True
        if len(names) < 2:  # all but the method is known
            return False
    return isinstance(called, ast.Attribute) and called.attr == "acquire"


# Not `isinstance` and `getattr`, which ask those that stand for something else.


def _is_in_c(found: Any) -> bool:
    return issubclass(type(found), _IN_C)


def _is_method_in_c(found: Any) -> bool:
    if type(found) in _METHODS_IN_C:
        return _is_in_c(found.__self__)
    return type(found) in _FUNCTIONS_IN_C and found.__objclass__ in _IN_C


def _attributes(owner: Any) -> Mapping[str, Any]:
    """Those that can be read without asking the owner."""
    classes = (vars(each) for each in type(owner).__mro__)
    made_by: Any = next((names["__dict__"] for names in classes if "__dict__" in names), None)
    return made_by.__get__(owner) if type(made_by) in _DESCRIPTORS_IN_C else {}


def _statement(frame: FrameType) -> ast.stmt | None:
    """What stands in the source where a frame is; None if that is no statement by itself."""
    place = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    first, last, begin, end = place  # in lines, and in bytes of these
    if first is None or last is None:
        return None
    lines = linecache.getlines(frame.f_code.co_filename)[first - 1 : last]
    source = [line.encode() for line in lines]
    if not source:
        return None
    source[-1] = source[-1][:end]
    source[0] = source[0][begin:]
    try:
        [found] = ast.parse(b"".join(source)).body
    except (SyntaxError, ValueError):
        return None
    return found


def _is_a_call(found: ast.stmt | None) -> bool:
    return isinstance(getattr(found, "value", None), ast.Call)


def _called(found: ast.stmt | None) -> list[ast.expr]:
    """What a statement calls, or enters."""
    if isinstance(found, ast.With):  # before 3.13 it is where all of it is
        return [item.context_expr for item in found.items]
    call = found.value if isinstance(found, ast.Expr) else None
    called = call.func if isinstance(call, ast.Call) else call
    return [] if called is None else [called]
