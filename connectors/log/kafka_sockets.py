"""Sockets for kafka-python's clients that do not outlive a refused connection, and bring much at a time.

kafka-python leaves the socket of a try that failed to the garbage collector, which hardly ever runs in our
processes (pipeline.memory); and each client tries again about once a second by itself. In an outage, or
while TLS was refused, that used up a process's files within ten minutes. And it reads 4 KiB at a time, for
each of which its thread gives the GIL away and waits for it. Its clients take their sockets from whoever
registered the scheme of their `proxy_url`, and speak TLS as its manager's module says.

They ask Python's selector about sockets that it does not have, several times a record, and each time the
KeyError tells the socket, for which Python asks the system for both addresses: a tenth of a producer's work.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any, Final

from kafka.net import manager
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport

DIRECT_URL = "direct://"
"""The `proxy_url` of clients that go without proxy."""
_RECEIVE_BYTES: Final = 128 * 1024


class _Socket(socket.socket):
    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(max(size, _RECEIVE_BYTES), flags)

    def __repr__(self) -> str:
        return f"<socket {self.fileno()}>"


class _Direct(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no type hints
    SCHEMES = ("direct",)

    def socket(self, *kind: int) -> socket.socket:
        return _Socket(*kind)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        with ExitStack() as failed:
            failed.callback(sock.close)
            connected = await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
            failed.pop_all()
            return connected


class _Tls(KafkaSSLTransport):  # type: ignore[misc]
    def __init__(self, net: Any, sock: Any, **settings: Any) -> None:
        with ExitStack() as failed:
            failed.callback(sock.close)
            super().__init__(net, sock, **settings)
            failed.pop_all()

    async def handshake(self) -> None:
        with ExitStack() as failed:
            failed.callback(self.abort)
            await super().handshake()
            failed.pop_all()


manager.KafkaSSLTransport = _Tls
