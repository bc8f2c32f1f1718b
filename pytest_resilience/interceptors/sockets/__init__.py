"""Python's sockets: blocking, under asyncio, trio or gevent, polled; TLS included."""
