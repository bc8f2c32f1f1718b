"""TLS in front of a real server that speaks none itself, as stunnel would be.

As a program, which nothing is injected in, it is given where that is and the file of a certificate
with its key, and prints its own port.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading

from collections.abc import Iterator


_SSL_REQUEST = 8  # bytes, of PostgreSQL
_GRANTED = b"S"


@contextlib.contextmanager
def tls_front(
    upstream: tuple[str, int] | str, context: ssl.SSLContext, *, asked: bool = False
) -> Iterator[int]:
    """A port that leads to a server's address, or the path of its socket.

    `asked`: whether clients ask for TLS first, as those of PostgreSQL do.
    """

    port = 0

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked:
            await reader.readexactly(_SSL_REQUEST)
            writer.write(_GRANTED)
            await writer.drain()
            await writer.start_tls(context)
        if isinstance(upstream, str):
            there = await asyncio.open_unix_connection(upstream)
        else:
            there = await asyncio.open_connection(*upstream)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve() -> None:
        nonlocal port
        tls = None if asked else context
        async with await asyncio.start_server(lead, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            ready.set()
            await over.wait()

    ready, over = threading.Event(), asyncio.Event()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        try:
            assert ready.wait(10)
            yield port
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(10)


def main(upstream: str, certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    host, _, port = upstream.rpartition(":")
    with tls_front((host, int(port)), context) as own:
        print(own, flush=True)  # noqa: T201  # it is a program
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
