"""The ways to poll one socket: whether it can be read, or written to, within some seconds."""

from __future__ import annotations

import select
import selectors
import socket

from typing import Protocol


class Poll(Protocol):
    __name__: str

    def __call__(self, sock: socket.socket, seconds: float, /, *, writes: bool = False) -> bool: ...


def by_select(sock: socket.socket, seconds: float, /, *, writes: bool = False) -> bool:
    readers, writers = ([], [sock]) if writes else ([sock], [])
    return any(select.select(readers, writers, [], seconds))


def by_poll(sock: socket.socket, seconds: float, /, *, writes: bool = False) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT if writes else select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def by_epoll(sock: socket.socket, seconds: float, /, *, writes: bool = False) -> bool:
    with select.epoll() as poll:
        poll.register(sock, select.EPOLLOUT if writes else select.EPOLLIN)
        return bool(poll.poll(seconds))


def by_a_selector(sock: socket.socket, seconds: float, /, *, writes: bool = False) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE if writes else selectors.EVENT_READ)
        return bool(selector.select(seconds))


POLLS: list[Poll] = [by_select, by_poll, by_epoll, by_a_selector]
