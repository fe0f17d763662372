"""A prompt as a chat in OpenAI's form, for APIs that take nothing else."""

from __future__ import annotations

from typing import Any

from frontend.backend import Prompt
from frontend.chat_template import Message
from frontend.errors import Unsupported

MEDIA_TYPES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lG": "image/gif", "UklGR": "image/webp"}
"""By the first characters of the base64 text, which are the format's first bytes."""


def chat_of(prompt: Prompt, image_token: str) -> list[Message]:
    """Its turns, the text of an open assistant turn last; all of a program without turns is one user turn.

    Raises `Unsupported` inside a user or system turn.
    """
    if not prompt.messages:
        return [{"role": "user", "content": content_of(prompt, image_token)}]
    if prompt.role not in (None, "assistant"):
        raise Unsupported(f"a chat model can not generate inside a {prompt.role} turn")
    begun = prompt.turn_text.strip() if prompt.role else ""
    return [*prompt.messages, {"role": "assistant", "content": begun}] if begun else list(prompt.messages)


def strict_chat_of(prompt: Prompt) -> list[Message]:
    """For APIs that begin a new turn whatever the chat ends with. Raises `Unsupported` unless an assistant turn just began."""
    if prompt.role != "assistant" or prompt.turn_text:
        raise Unsupported(
            "a chat model answers whole turns: gen must stand right at the beginning of an assistant turn. With "
            "@function(num_api_spec_tokens=128) a turn with text and several generations is asked for as a whole"
        )
    return list(prompt.messages)


def content_of(prompt: Prompt, image_token: str) -> str | list[dict[str, Any]]:
    """The text, with the images where it names them."""
    if not prompt.images:
        return prompt.text
    parts: list[dict[str, Any]] = []
    *before, last = prompt.text.split(image_token, len(prompt.images))
    for text, data in zip(before, prompt.images, strict=False):
        parts += [_text(text), {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}]
    return [part for part in [*parts, _text(last)] if part.get("text") != ""]


def system_and_turns(messages: list[Message]) -> tuple[str, list[Message]]:
    """All system turns as one text, and the other turns."""
    system = "\n\n".join(text_of(message["content"]) for message in messages if message["role"] == "system")
    return system, [message for message in messages if message["role"] != "system"]


def text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def image_in(part: dict[str, Any]) -> tuple[str, str]:
    """The media type, by the data itself, and the base64 text of a part. Raises `Unsupported` if it is no picture."""
    data = part["image_url"]["url"].partition(",")[2]
    found = next((media_type for start, media_type in MEDIA_TYPES.items() if data.startswith(start)), None)
    if found is None:
        raise Unsupported("the API takes images as PNG, JPEG, GIF or WebP files")
    return found, data


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
