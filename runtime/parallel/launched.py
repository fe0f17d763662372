"""How ranks find each other that torchrun has started: by its store, which all of them reach.

Rank 0 leaves its address there. The secret does not go over the network: it lies in a file that only this user can read, which
rank 0 takes away when all are there; on several machines it is that of `--rank-secret-file`.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec
from torch._C._distributed_c10d import TCPStore

from runtime.errors import ConfigError, StartError
from runtime.parallel.credentials import read_secret
from runtime.parallel.place import Place

TIMEOUT_S = 120.0


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where rank 0 listens, and the file with the secret, if there is one for this start only."""

    host: str
    port: int
    secret_file: str | None


@contextmanager
def published(place: Place, port: int, secret: bytes, secret_file: str | None) -> Iterator[None]:
    """Inside of it the other ranks can find rank 0. Raises `StartError`."""
    store = _open(place)
    own_file = None if secret_file is not None else _leave_secret(secret)
    try:
        address = Address(host=place.host, port=port, secret_file=own_file)
        store.set(_key(place), msgspec.json.encode(address).decode())
        yield
    finally:
        if own_file is not None:
            os.unlink(own_file)


def find_leader(place: Place, secret_file: str | None) -> tuple[str, int, bytes]:
    """Host and port where rank 0 listens, and the secret; blocks until it does. Raises `StartError` and `ConfigError`."""
    store = _open(place)
    try:
        address = msgspec.json.decode(store.get(_key(place)), type=Address)
    except (RuntimeError, msgspec.MsgspecError) as error:
        raise StartError(f"rank 0 can not be found in torchrun's store: {_first_line(error)}") from None
    file = secret_file or address.secret_file
    if file is None:
        raise ConfigError("rank 0 was given a --rank-secret-file: give it to all ranks")
    return address.host, address.port, read_secret(file) if file == secret_file else _take_secret(file)


def _open(place: Place) -> TCPStore:
    assert place.store is not None, "only torchrun has a store"
    host, port = place.store
    is_server = place.leads and place.serves_store
    try:
        return TCPStore(host, port, place.num_ranks, is_server, timedelta(seconds=TIMEOUT_S), wait_for_workers=False)
    except RuntimeError as error:
        raise StartError(f"torchrun's store at {host}:{port} can not be reached: {_first_line(error)}") from None


def _key(place: Place) -> str:
    return f"callboard/{place.attempt}"


def _leave_secret(secret: bytes) -> str:
    """The path of a new file that only this user can read."""
    descriptor, path = tempfile.mkstemp(prefix="callboard-rank-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    return path


def _take_secret(path: str) -> bytes:
    """What rank 0 left, if it was rank 0: the store would believe anybody."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise StartError(f"the ranks' secret in {path} is not this user's alone")
            return file.read()
    except OSError as error:
        raise StartError(f"the ranks' secret in {path} can not be read: {error.strerror}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
