"""Places on loopback where clients are treated well, or badly for real.

What happens at a place can be changed while it is open: so a client can first be let in, and
can come back after what has happened to it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from collections.abc import Callable
from collections.abc import Iterator

from tests.end_to_end.network.stand_ins import Speaker
from tests.resets import reset_when_closed
from tests.waiting import until_all_wait


# What a place does with a request.
GOOD = "good"
RESET = "reset"  # it is read, and the connection is torn down with RST
RESET_ONCE = "reset once"  # and then all is well
LOSE = "lose"  # the same, once the answer is there
CLOSE = "close"  # it is read, and the connection is closed in good order
SILENT = "silent"
LATE = "late"  # the answer is held back until the place is turned again
HALF = "half"  # half of the answer, and an end in good order
BREAK = "break"  # half of the answer, and RST
# And with one who connects.
REFUSE = "refuse"
DOWN = "down"  # the same, and those who were connected are not any more
FULL = "full"  # the queue of those who connect is full: the kernel drops what they send


class Place:
    """A port on loopback.

    Attributes:
        port: the same, whatever happens there.
        mood: what is done with the next request.
        requests: how many were read.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._holder = contextlib.ExitStack()
        self._turned = threading.Condition()
        self.port = 0
        self.mood = GOOD
        self.requests = 0
        self._held = 0
        self._open()

    def turn(self, mood: str) -> None:
        """Treat clients in another way from now on."""
        shut = {REFUSE: self._refuse, DOWN: self._go_down, FULL: self._fill}
        if self.mood in shut or mood in shut:
            self._holder.close()
            shut.get(mood, self._open)()
        with self._turned:
            self.mood = mood
            self._turned.notify_all()

    def hold(self) -> str:
        """Wait as long as all that is said here is late; what to do then, "" if it was not."""
        with self._turned:
            was_late = self.mood == LATE
            self._held += was_late
            self._turned.notify_all()
            self._turned.wait_for(lambda: self.mood != LATE)
            return self.mood if was_late else ""

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[], None]]:
        """Say nothing, unless it is turned; yields what waits until there is something to say."""
        self._held = 0
        self.turn(LATE)

        def until_held() -> None:
            with self._turned:
                assert self._turned.wait_for(lambda: self._held, 10)

        try:
            yield until_held
        finally:
            self.turn(GOOD)

    def take_mood(self) -> str:
        """What is done with the request that was just read."""
        mood = self.mood
        if mood == RESET_ONCE:
            self.mood = GOOD
        return mood

    def watch(self, connection: socket.socket) -> None:
        """Whoever waits on it is woken when the place is closed."""
        self._sockets.append(connection)

    def close(self) -> None:
        self.turn(GOOD if self.mood == LATE else self.mood)
        self._holder.close()
        self._hang_up()
        for thread in self._threads:
            thread.join(10)

    def _hang_up(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it

    def _bound(self) -> socket.socket:
        sock = self._holder.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        return sock

    def _open(self) -> None:
        listener = self._bound()
        listener.listen()
        self._holder.callback(self._start(self._accept, listener).join, 10)
        self._holder.callback(listener.shutdown, socket.SHUT_RDWR)

    def _refuse(self) -> None:
        self._bound()  # and nobody else will listen there

    def _go_down(self) -> None:
        self._refuse()
        self._hang_up()

    def _fill(self) -> None:
        self._bound().listen(0)
        for _ in range(4):
            client = self._holder.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self.port))

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                # Or what is sent before a reset may still be held back here, and be lost.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.watch(connection)
                self._threads.append(self._start(self._handle, connection))

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._handler(connection, self)


Handler = Callable[[socket.socket, Place], None]


@contextlib.contextmanager
def place(handler: Handler) -> Iterator[Place]:
    """Give each connection to `handler`, in a thread of its own."""
    found = Place(handler)
    try:
        yield found
    finally:
        found.close()


def will_reset(connection: socket.socket) -> None:
    """Closing it sends RST."""
    reset_when_closed(connection)


def swallow(connection: socket.socket) -> None:
    """Read, and say nothing."""
    while connection.recv(65536):
        pass


# --- HTTP ---

Answers = dict[str, bytes]


def in_http(answers: Answers) -> Handler:
    """Answers each request with the answer for the mood, or with the good one.

    An answer that says no end ends with its connection; in silence it does not end.
    """

    def handle(connection: socket.socket, place: Place) -> None:
        while read_request(connection):
            place.requests += 1
            mood = place.take_mood()
            answer = answers.get(mood, answers[GOOD])
            lasting = b"Content-Length" in answer or b"chunked" in answer
            if mood in {RESET, RESET_ONCE, LOSE}:
                will_reset(connection)
                break
            if mood == CLOSE:
                break
            if mood != SILENT or not lasting:
                connection.sendall(half(answer) if mood in {HALF, BREAK} else answer)
            if mood == BREAK:
                will_reset(connection)
                break
            if mood == SILENT:
                swallow(connection)
            elif mood == HALF or not lasting:
                say_goodbye(connection)

    return handle


def half(answer: bytes) -> bytes:
    """The head, and half of the body."""
    head, end, body = answer.partition(b"\r\n\r\n")
    return head + end + body[: len(body) // 2]


def say_goodbye(connection: socket.socket) -> None:
    """End it in good order, of TCP's, and wait until the client has read all."""
    connection.shutdown(socket.SHUT_WR)
    swallow(connection)


def read_request(connection: socket.socket) -> bytes:
    """Of HTTP, head and body; nothing if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    rest = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
    while rest > 0:
        more = connection.recv(rest)
        data, rest = data + more, rest - len(more or b" " * rest)
    return data


def over_tls(handler: Handler, context: ssl.SSLContext) -> Handler:
    def handle(connection: socket.socket, place: Place) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            place.watch(wrapped)  # which has the connection now
            handler(wrapped, place)

    return handle


# --- Everything else: a real server, and somebody in between ---


def relay(upstream: tuple[str, int] | str) -> Handler:
    """Leads to a real server, by its address or the path of its socket, and is no help."""

    def handle(client: socket.socket, place: Place) -> None:
        family = socket.AF_UNIX if isinstance(upstream, str) else socket.AF_INET
        with socket.socket(family) as server:
            server.connect(upstream)
            back = threading.Thread(target=answer, args=(server, client, place), daemon=True)
            back.start()
            ask(client, server, place)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(10)

    def ask(client: socket.socket, server: socket.socket, place: Place) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                place.requests += 1
                mood = place.take_mood()
                if mood in {RESET, RESET_ONCE, CLOSE}:
                    if mood != CLOSE:
                        will_reset(client)
                    client.close()  # before `answer` can say goodbye
                elif mood == SILENT:
                    swallow(client)
                else:
                    server.sendall(data)

    def answer(server: socket.socket, client: socket.socket, place: Place) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                held = place.hold()
                if held == RESET or place.mood == LOSE:
                    will_reset(client)
                if held in {RESET, CLOSE} or place.mood == LOSE:
                    client.shutdown(socket.SHUT_RD)  # tells `ask`, who closes it
                    return
                if place.mood in {HALF, BREAK}:
                    client.sendall(data[: len(data) // 2])
                if place.mood == BREAK:
                    # Who begins to poll just when RST comes is told of an error, and of nothing to
                    # read: psycopg takes that for something else. So it has to poll already.
                    until_all_wait()
                    will_reset(client)
                    client.shutdown(socket.SHUT_RD)
                    return
                if place.mood == HALF:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    return handle


# --- Stand-ins ---


def in_turns(speaker: Speaker) -> Handler:
    """Lets a stand-in talk, which says its greeting to everybody."""

    def handle(connection: socket.socket, place: Place) -> None:
        dialogue = speaker(place.port)
        connection.sendall(next(dialogue))
        while data := connection.recv(65536):
            place.requests += 1
            mood = place.take_mood()
            if mood in {RESET, RESET_ONCE}:
                will_reset(connection)
            if mood in {RESET, RESET_ONCE, CLOSE}:
                return
            if mood == SILENT:
                swallow(connection)
            elif answer := dialogue.send(data):
                held = place.hold()
                if not _gave(answer, connection, held or mood):
                    return

    return handle


def _gave(answer: bytes, connection: socket.socket, mood: str) -> bool:
    """Whether the connection goes on after that."""
    if mood in {HALF, BREAK}:
        connection.sendall(answer[: len(answer) // 2])
    if mood in {LOSE, BREAK, RESET}:
        will_reset(connection)
    elif mood not in {HALF, CLOSE, DOWN}:
        connection.sendall(answer)
    return mood not in {LOSE, HALF, BREAK, RESET, CLOSE, DOWN}


# --- MySQL, as far as its handshake ---

_OK = b"\x00\x00\x00\x02\x00\x00\x00"


def _packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload


_GREETING = _packet(
    0,
    b"\x0a8.0.0\x00" + b"\x01\x00\x00\x00" + b"saltsalt\x00"
    # What it can do: protocol 4.1, a secure handshake, names of plugins.
    + (0x8200).to_bytes(2, "little") + b"\x2d\x02\x00" + (0x0008).to_bytes(2, "little")
    + b"\x15" + bytes(10) + b"moresaltmore\x00" + b"mysql_native_password\x00",
)  # fmt: skip


def in_mysql(connection: socket.socket, place: Place) -> None:
    """Greets, lets everybody in, and says yes to everything.

    It resets those who have introduced themselves: before, they may still be connecting.
    """
    place.requests += 1
    mood = place.mood
    if mood == SILENT:
        swallow(connection)
    connection.sendall(_GREETING[: len(_GREETING) // 2] if mood == HALF else _GREETING)
    if mood == HALF:
        say_goodbye(connection)
    while data := connection.recv(65536):
        if mood in {RESET, CLOSE}:
            if mood == RESET:
                will_reset(connection)
            return
        connection.sendall(_packet(data[3] + 1, _OK))
