"""From a `dspy.lm15.Request` to prompt tokens, split into the prefix that other requests share and this one's tail."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dspy import lm15

# The heading that DSPy's ChatAdapter puts at the top of every input: the same for all examples of a program.
_FIRST_HEADING = re.compile(r"\[\[ ## \w+ ## \]\]\n")
# Stands for the part of the last turn that differs; a private-use character that no template changes.
_PLACEHOLDER = "\ue000"


@dataclass(frozen=True)
class Prompt:
    """A tokenized prompt.

    Attributes:
        text: The rendered chat.
        prefix: Tokens before the last turn's own content; they depend on nothing but this request.
        tail: The remaining tokens, at least one.
    """

    text: str
    prefix: tuple[int, ...]
    tail: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.tail)


def chat_messages(request: lm15.Request) -> list[dict[str, str]]:
    """Convert a request to role/content dictionaries.

    Raises:
        lm15.UnsupportedFeatureError: It holds tools, or anything but text.
    """
    if request.tools:
        raise lm15.UnsupportedFeatureError("the embedded LM cannot call tools; use an adapter that writes them as text")
    messages = []
    if request.system is not None:
        system = request.system if isinstance(request.system, str) else _text(request.system, "system")
        messages.append({"role": "system", "content": system})
    for message in request.messages:
        role = "system" if message.role == "developer" else message.role
        messages.append({"role": role, "content": _text(message.parts, message.role)})
    return messages


def _text(parts: Any, role: str) -> str:
    other = sorted({part.type for part in parts if not isinstance(part, lm15.TextPart)})
    if other:
        raise lm15.UnsupportedFeatureError(f"the embedded LM reads text only, but the {role} message has {other}")
    return "\n".join(part.text for part in parts)


class PromptRenderer:
    """Renders and tokenizes chats with a model's own template. Safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # The backend is used directly: transformers' wrapper sets padding on it at each call, which is not thread-safe.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()

    def render(self, messages: list[dict[str, str]]) -> Prompt:
        """Tokenize a chat whose last message is to be answered.

        Raises:
            lm15.InvalidRequestError: The model's chat template refuses these roles.
        """
        last = messages[-1]
        heading = _FIRST_HEADING.match(last["content"])
        head = heading.group() if heading else ""
        try:
            text = self.chat(messages)
            shared = self.chat([*messages[:-1], {**last, "content": head + _PLACEHOLDER}])
        except Exception as exc:  # templates raise their own errors, such as jinja2's TemplateError
            raise lm15.InvalidRequestError(f"the model's chat template cannot render this request: {exc}") from exc
        shared = shared.partition(_PLACEHOLDER)[0]
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = encoding.ids
        cut = 0
        if text.startswith(shared):
            # Tokens that reach over the boundary belong to the tail, so that the tokens are those of the whole text.
            ends = [end for _, end in encoding.offsets]
            cut = min(sum(end <= len(shared) for end in ends), len(ids) - 1)
        return Prompt(text, tuple(ids[:cut]), tuple(ids[cut:]))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Render a chat to text, ending where the assistant's reply begins."""
        if self._tokenizer.chat_template is None:
            turns = "".join(f"{message['role']}: {message['content']}\n\n" for message in messages)
            return f"{turns}assistant:"
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text
