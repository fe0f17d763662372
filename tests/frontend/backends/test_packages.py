"""The packages under the backends: optional, imported late, and silent when they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from frontend.errors import MissingPackage
from frontend.packages import package

OFFLINE = """
import socket, sys
asked = []
def refuse(self, address):
    asked.append(address)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *a, **k: refuse(None, a)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_litellm_does_not_ask_the_network() -> None:
    code = OFFLINE + "import frontend; frontend.LiteLLM('openai/m'); print(asked, 'litellm' in sys.modules)"
    assert run(code) == "[] True"


def test_a_missing_package_is_said_with_what_to_install() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['openai', 'anthropic', 'google.genai', 'litellm']))\n"
        "import frontend\n"
        "for name in ('OpenAI', 'Anthropic', 'Gemini', 'LiteLLM'):\n"
        "    try: getattr(frontend, name)('model')\n"
        "    except ImportError as error: print(type(error).__name__, 'callboard[' in str(error))\n"
    )
    assert run(code).splitlines() == ["MissingPackage True"] * 4


def test_the_extra_is_named() -> None:
    with pytest.raises(MissingPackage, match=r"pip install 'callboard\[openai\]'"):
        package("no_such_package", extra="openai")


def test_finding_a_backend_does_not_import_its_package() -> None:
    code = "import sys, frontend; frontend.OpenAI, frontend.LiteLLM, frontend.Anthropic, frontend.VertexAI\n"
    code += "print({'openai', 'anthropic', 'litellm', 'google.genai'} & set(sys.modules))"
    assert run(code) == "set()"
