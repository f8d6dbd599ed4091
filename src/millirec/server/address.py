"""Sockets to listen on: taken once, shared by workers, refused when somebody else serves there."""

import socket

from millirec.data.errors import ConfigError


def reserve(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one. `shared`: several processes may bind the same address.

    Raises ConfigError when the address cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if shared and port:
            # Sharing must not reach beyond our own workers: an address that somebody else serves is refused.
            with socket.socket(family, kind, proto) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        return bind(host, port, shared=shared)
    except OSError as error:
        raise ConfigError(
            f"$.port: cannot listen on {host}:{port} ({error.strerror or error})",
            "stop what uses it, or choose another --port (0 takes a free one) or --host",
        ) from error


def bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """A bound socket without further questions. Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """The address for people and programs."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
