"""A small HTTP server that behaves as a test says, request by request, and writes down what it did and when."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class SlowServer:
    """`behave(number of the request in its body)` gives a status, 0 to close the connection, or None never to answer."""

    behave: Callable[[int], int | None]
    service_s: float = 0.0  # one request after the other takes so long
    listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=512))
    received: list[int] = field(default_factory=list)
    received_s: dict[int, float] = field(default_factory=dict)  # by number (perf_counter)
    answered_s: dict[int, float] = field(default_factory=dict)  # by number, just before the answer left (perf_counter)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    links: list[socket.socket] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listening.accept()
            except OSError:  # closed: the test is over
                return
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links.append(link)
            threading.Thread(target=self.talk, args=(link,), daemon=True).start()

    def talk(self, link: socket.socket) -> None:
        with link, link.makefile("rb") as reader:
            try:
                while reader.readline():
                    length = 0
                    while (line := reader.readline()) not in (b"\r\n", b""):
                        name, _, value = line.partition(b":")
                        length = int(value) if name.lower() == b"content-length" else length
                    content = reader.read(length)
                    if not self.answer(link, int(content) if content.isdigit() else -1):
                        return
            except OSError:  # the client left
                return

    def answer(self, link: socket.socket, number: int) -> bool:
        self.received.append(number)
        self.received_s.setdefault(number, time.perf_counter())
        status = self.behave(number)
        if status is None:
            return True
        with self.one_at_a_time:
            time.sleep(self.service_s)
        if status == 0:
            link.shutdown(socket.SHUT_RDWR)
            return False
        self.answered_s[number] = time.perf_counter()
        content = b'{"number": %d}' % number
        head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
        whole = head + content
        link.sendall(whole[:25])  # in two parts, as the network may bring it
        link.sendall(whole[25:])
        return True


@contextmanager
def serving(behave: Callable[[int], int | None], service_s: float = 0.0) -> Iterator[SlowServer]:
    server = SlowServer(behave, service_s)
    threading.Thread(target=server.accept, daemon=True).start()
    try:
        yield server
    finally:
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        for link in server.links:
            link.close()
