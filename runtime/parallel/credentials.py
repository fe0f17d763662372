"""By what the ranks of one server know each other: a secret that only they have."""

from __future__ import annotations

from pathlib import Path
from random import SystemRandom

from runtime.actors.handshake import NONCE_BYTES, Credentials
from runtime.errors import ConfigError

PROTOCOL = "callboard-ranks/1"
"""To be counted up with any change of the messages in `protocol` and of the orders."""
SECRET_BYTES = 32
MIN_SECRET_BYTES = 16


def credentials_of(secret: bytes) -> Credentials:
    """For both ends of a link."""
    return Credentials(PROTOCOL, secret, lambda: SystemRandom().randbytes(NONCE_BYTES))


def new_secret() -> bytes:
    """For ranks that this process starts."""
    return SystemRandom().randbytes(SECRET_BYTES)


def read_secret(path: str) -> bytes:
    """The content of `--rank-secret-file`, without white space around it. Raises `ConfigError`."""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"--rank-secret-file {path} can not be read: {error.strerror}") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"--rank-secret-file {path} holds {len(secret)} bytes, and at least {MIN_SECRET_BYTES} are needed")
    return secret
