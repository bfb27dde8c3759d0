"""Ports for servers that tests start and that must be told where to listen."""

import random
import socket

# The kernel takes ports for outgoing connections, and for whoever asks for any port, from above these (Linux: 32768).  Between
# our look and the server's start nobody is given one of ours by chance, however many connections other tests make.
LOW, HIGH = 10_000, 32_000
_luck = random.SystemRandom()  # Hypothesis seeds the usual one, in two processes alike


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    while True:
        port = _luck.randrange(LOW, HIGH)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # taken
            continue
        return port
