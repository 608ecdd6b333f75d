"""A TCP proxy between keepstream and one server, which can cut, delay, stall, half-close and lose.

One thread accepts, two carry each connection. What it does to connections it does to all that are open then.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

_CHUNK_BYTES = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST
_TICK_S = 0.02


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    lossy: bool = False

    def end(self, *, reset: bool = False) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """Listens on `port`. `target` is asked for the server's port at each connection: it may move."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._stalled_until = 0.0
        self._slow_until = 0.0
        self._delay_s = 0.0
        self._losing: Callable[[_Pair], socket.socket] | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"proxy {self.port}", daemon=True).start()

    def cut(self) -> None:
        """Every open connection is reset, on both sides."""
        for pair in self._open():
            pair.end(reset=True)

    def delay(self, delay_s: float, for_s: float) -> None:
        """What is carried from now on comes later, chunk by chunk."""
        self._delay_s, self._slow_until = delay_s, time.monotonic() + for_s

    def stall(self, for_s: float) -> None:
        """Nothing is carried, and nobody is told."""
        self._stalled_until = time.monotonic() + for_s

    def half_close(self, *, toward_server: bool) -> None:
        """One direction ends in order (FIN), the other one stays open."""
        for pair in self._open():
            with contextlib.suppress(OSError):
                (pair.server if toward_server else pair.client).shutdown(socket.SHUT_WR)

    @contextlib.contextmanager
    def losing(self, *, toward_server: bool) -> Iterator[None]:
        """Requests are taken and never come, or come and are never answered. Then all connections end."""
        self._losing = attrgetter("server" if toward_server else "client")
        try:
            yield
        finally:
            self._losing = None
            self.cut()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _open(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target()), timeout=5)
            except OSError:
                client.close()
                continue
            self._carry_both(client, server)

    def _carry_both(self, client: socket.socket, server: socket.socket) -> None:
        for one in (client, server):
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
        for ends in ((client, server), (server, client)):
            threading.Thread(target=self._carry, args=[pair, *ends], daemon=True).start()

    def _carry(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                self._linger()
                if not self._loses(pair, sink):
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pair.end()
        with self._lock:
            if pair in self._pairs and (source is pair.server or source.fileno() < 0):
                self._pairs.discard(pair)
        if source is pair.server:
            pair.end()  # a server that has ended says nothing more

    def _loses(self, pair: _Pair, sink: socket.socket) -> bool:
        """Raises OSError for a connection that has lost something before and would go on without it."""
        losing = self._losing
        if losing is not None:
            loses = losing(pair) is sink
            pair.lossy |= loses
            return loses
        if pair.lossy:
            raise ConnectionResetError
        return False

    def _linger(self) -> None:
        now = time.monotonic()
        if now < self._slow_until:
            time.sleep(self._delay_s)
        while time.monotonic() < self._stalled_until:
            time.sleep(_TICK_S)
