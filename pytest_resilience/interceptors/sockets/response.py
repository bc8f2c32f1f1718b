"""What is heard of an answer, once it is there: the same however a socket is read."""

from __future__ import annotations

import io
import socket

from typing import Any

from pytest_resilience.chaos.engine import Effect
from pytest_resilience.chaos.engine import Engine
from pytest_resilience.chaos.faults.response import Alteration
from pytest_resilience.chaos.faults.response import InjectedResponse
from pytest_resilience.chaos.operation import CLOSE
from pytest_resilience.interceptors.sockets import effects
from pytest_resilience.interceptors.sockets.connections import Link
from pytest_resilience.interceptors.sockets.response_stream import Call
from pytest_resilience.interceptors.sockets.response_stream import Course
from pytest_resilience.interceptors.sockets.response_stream import Decrypted
from pytest_resilience.interceptors.sockets.response_stream import Receipt


__all__ = ["begin", "end", "instead", "recite", "take", "turn"]


def turn(
    engine: Engine, link: Link, *, blocking: bool = True, through: object = None
) -> None:  # as `Link.operation`
    """The client turns from sending to receiving: the start of a round trip."""
    link.answer = engine.decide(link.operation(link.turn(), blocking=blocking, through=through))
    if link.backlog and (link.answer is None or link.answer.delay < float("inf")):
        link.answer = link.cut  # what nobody was told nobody answers


def begin(sock: socket.socket, link: Link, answer: Effect, began: float) -> None:
    """The wait for an answer is over: what is heard of it, whose first byte `began`?"""
    __tracebackhide__ = True
    fault = answer.failure
    above = isinstance(fault, (Alteration, InjectedResponse)) and link.unsealed
    if above:
        link.decrypted = Decrypted(answer)
    elif isinstance(fault, InjectedResponse):
        link.script = io.BytesIO(fault.replacement)
    elif fault is not None and not fault.needs_body:
        effects.fail(sock, fault)
        return
    if answer.pace is not None or (isinstance(fault, Alteration) and not above):
        link.course = Course(answer, began, encrypted=above)


def take(sock: socket.socket, link: Link, data: bytes) -> bytes:
    """What is heard of the next `data` of an answer."""
    course = link.course
    if course is None:
        return data
    heard = course.take(data)
    if course.ended:
        link.script = io.BytesIO()
        effects.hear_no_more(sock)
    return heard


def instead(sock: socket.socket, link: Link, answer: Effect, call: Call, result: Any) -> Any:
    """What is heard where `call` has received `result` before `answer` began with it."""
    __tracebackhide__ = True
    if link.script is not None:
        return recite(sock, link, link.script, call)
    if link.course is not None:
        receipt = Receipt(call)
        return receipt.deliver(take(sock, link, receipt.content(result)))
    return result if answer.failure is None or link.decrypted is not None else call()


def end(
    engine: Engine, link: Link, *, blocking: bool = True, through: object = None
) -> Effect | None:
    """The end of what the peer sends has been received: what happens to it, the first time?"""
    if link.ended:
        return None
    link.ended = True
    return engine.decide(link.operation(CLOSE, blocking=blocking, through=through))


def recite(sock: socket.socket, link: Link, script: io.BytesIO, call: Call) -> Any:
    """Receive what is left of a script; after that, the end."""
    receipt = Receipt(call)
    data = script.read(receipt.size)
    if not data and receipt.size and not link.ended:
        link.ended = True
        if sock.gettimeout() != 0:  # a loop closes it, and has it registered until then
            effects.end(sock)
            while receipt.fetch():  # TLS may have more, and has to see the end as well
                pass
    return receipt.deliver(data)
