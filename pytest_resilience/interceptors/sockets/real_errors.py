"""Sockets to which the real thing has happened.

What a socket does after an accident is the kernel's and the interpreter's business, and
on TLS it differs from one Python to the next. So it is not imitated: the user's socket
is brought into the state, and what it then raises and returns is the truth.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket

from pytest_resilience.chaos.shared_settings import limits_lifted
from pytest_resilience.interceptors.patching import KernelSocket
from pytest_resilience.interceptors.patching import kernel_socket


__all__ = ["end", "refuse", "tear_down"]

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def refuse(sock: socket.socket) -> None:
    """Connect `sock` to a port where nobody listens, which raises what that raises.

    Returns only where this cannot be done, as with a socket bound to an outside address.
    """
    __tracebackhide__ = True
    with (
        limits_lifted(),
        contextlib.closing(KernelSocket(sock.family, socket.SOCK_STREAM)) as holder,
    ):
        try:
            holder.bind((_LOOPBACK[sock.family], 0))  # held, so that nobody listens there
            KernelSocket.connect(kernel_socket(sock), holder.getsockname())
        except ConnectionRefusedError:
            raise
        except BlockingIOError:  # it will be
            if sock.gettimeout() == 0:
                raise
        except OSError:
            return


def tear_down(sock: socket.socket) -> None:
    """Make `sock` a connection that its peer has just reset; the next receive will tell.

    Raises OSError if there is no descriptor left to do it with.
    """
    _replace(sock, accepted=False)


def end(sock: socket.socket) -> None:
    """Make `sock` a connection that its peer has just closed, in good order.

    Raises OSError if there is no descriptor left to do it with.
    """
    _replace(sock, accepted=True)


def _replace(sock: socket.socket, *, accepted: bool) -> None:
    with limits_lifted(), contextlib.closing(_wreck(accepted=accepted)) as wreck:
        with contextlib.suppress(OSError):  # the peer was faster
            KernelSocket.shutdown(
                kernel_socket(sock), socket.SHUT_RDWR
            )  # wakes other threads that wait on it
        number = sock.fileno()
        os.set_blocking(wreck.fileno(), os.get_blocking(number))
        os.dup2(wreck.fileno(), number, inheritable=os.get_inheritable(number))


def _wreck(*, accepted: bool) -> KernelSocket:
    """The client's end of a connection whose other end is gone."""
    wreck = KernelSocket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        with contextlib.closing(KernelSocket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
            listener.bind((_LOOPBACK[socket.AF_INET], 0))
            listener.listen(1)
            wreck.connect(listener.getsockname())
            if accepted:
                # What `socket.socket` accepts by; this class has no other.
                os.close(listener._accept()[0])  # type: ignore[attr-defined]  # noqa: SLF001
        # Closing a listener resets what it has not accepted.
        told = select.poll()
        told.register(wreck.fileno(), select.POLLIN)
        told.poll(1000)
    except BaseException:
        wreck.close()
        raise
    return wreck
