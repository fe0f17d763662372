"""Where rank 0 waits for the others."""

from __future__ import annotations

import socket

from runtime.errors import StartError


def listen(host: str, port: int) -> socket.socket:
    """Port 0 is a free one. Raises `StartError`."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"can not listen for ranks on {host}:{port}: {reason}; see --dist-init-addr") from None
