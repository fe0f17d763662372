"""Secrets: where they may come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.parallel.credentials import credentials_of, new_secret, read_secret


def test_a_secret_file_is_read_without_the_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sixteen or more bytes\n")
    assert read_secret(str(tmp_path / "secret")) == b"sixteen or more bytes"


def test_a_secret_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can not be read"):
        read_secret(str(tmp_path / "none"))
    (tmp_path / "secret").write_text("short\n")
    with pytest.raises(ConfigError, match="holds 5 bytes"):
        read_secret(str(tmp_path / "secret"))


def test_secrets_and_nonces_do_not_come_again() -> None:
    own = credentials_of(new_secret())
    assert new_secret() != own.secret
    assert own.new_nonce() != own.new_nonce()
