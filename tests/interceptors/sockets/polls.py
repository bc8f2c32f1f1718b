"""The ways to poll one socket: whether it is reported as readable within some seconds."""

from __future__ import annotations

import select
import selectors
import socket

from collections.abc import Callable


Poll = Callable[[socket.socket, float], bool]


def by_select(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def by_poll(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def by_epoll(sock: socket.socket, seconds: float) -> bool:
    with select.epoll() as poll:
        poll.register(sock, select.EPOLLIN)
        return bool(poll.poll(seconds))


def by_a_selector(sock: socket.socket, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(seconds))


POLLS: list[Poll] = [by_select, by_poll, by_epoll, by_a_selector]
