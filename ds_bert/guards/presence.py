"""Who has ended: each rank holds a connection to rank 0, which its kernel closes with the process.

Of a rank that is killed nothing else may tell: collectives of NCCL wait on, and so does whoever
waits for a key of the store.
"""

import re
import selectors
import socket
from contextlib import suppress

_HELLO, _GOODBYE = re.compile(rb"rank (\d+)\n"), b"goodbye\n"


class Door:
    """Rank 0's end of all connections. No method blocks.

    Attributes:
        port: where the others come in.
    """

    def __init__(self, world_size: int):
        self._server = _listen(world_size)
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._ranks: dict[socket.socket, int | None] = {}
        self._ended: set[int] = set()

    def ended(self) -> set[int]:
        """Ranks whose connections have closed without a goodbye; one may have been cut off."""
        for key, _ in self._selector.select(0):
            if key.fileobj is self._server:
                self._let_in()
            else:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)
        return self._ended

    def _let_in(self) -> None:
        with suppress(OSError):
            connection, _ = self._server.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ)
            self._ranks[connection] = None

    def _read(self, connection: socket.socket) -> None:
        said = b""
        with suppress(ConnectionError):
            said = connection.recv(64)
        if hello := _HELLO.fullmatch(said):
            self._ranks[connection] = int(hello[1])
            return
        rank = self._ranks.pop(connection)
        if rank is not None and not said:
            self._ended.add(rank)
        self._selector.unregister(connection)
        connection.close()


class Visitor:
    """Another rank's end of its connection; raises OSError where rank 0 cannot be reached.

    Args:
        address, port: of rank 0's door.
        rank: this one.
        patience: seconds.
    """

    def __init__(self, address: str, port: int, rank: int, patience: float):
        self._connection = socket.create_connection((address, port), patience)
        self._connection.sendall(b"rank %d\n" % rank)

    def leave(self) -> None:
        """Say that this rank ends as it should."""
        with suppress(OSError):
            self._connection.sendall(_GOODBYE)


def _listen(world_size: int) -> socket.socket:
    with suppress(OSError):  # a machine without IPv6
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, backlog=world_size, dualstack_ipv6=True
        )
    return socket.create_server(("", 0), backlog=world_size)
