"""Sockets for kafka-python's clients that do not outlive a refused connection.

kafka-python leaves the socket of a try that failed to the garbage collector, which hardly ever runs in our
processes (pipeline.collector); and each client tries again about once a second by itself. In an outage that
used up a process's files within ten minutes. Its clients take their sockets from whoever registered the
scheme of their `proxy_url`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from kafka.net.inet import KafkaNetSocket

DIRECT_URL = "direct://"
"""The `proxy_url` of clients that go without proxy."""


class _Direct(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no type hints
    SCHEMES = ("direct",)

    async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
        with ExitStack() as failed:
            failed.callback(sock.close)
            connected = await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
            failed.pop_all()
            return connected
