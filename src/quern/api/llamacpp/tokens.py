"""`/tokenize`, `/detokenize` and `/apply-template`, in llama.cpp's shape and in vLLM's, told apart by their fields.

A text has here the ids that it has in a request: the text of a special token is text like any other, whatever
`parse_special` says. A client that budgets by tokenising a conversation that it rendered itself therefore counts a few
tokens too many, never too few; sent as `messages` it is counted exactly.

Sources of the shapes: llama.cpp's tools/server/README.md; "Tokenizer API" in vLLM's documentation of its server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from quern.api.shared.chat_messages import AssistantMessage, ChatMessage, message_items
from quern.api.shared.fields import MOST_MESSAGES, NoOp, RequestObject
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import ServicesDep
from quern.api.shared.tools import MOST_TOOLS, OfferedTool, shown_tools
from quern.errors import InvalidRequest
from quern.turns.request import ChatInput, ToolUse, split_prefill
from quern.turns.tokens import TokenService

router = APIRouter(route_class=JsonRoute, tags=["llama.cpp", "vLLM"])


class Conversation(RequestObject):
    """Messages and the tools that the model is shown, ready for its answer."""

    messages: list[ChatMessage] | None = Field(default=None, min_length=1, max_length=MOST_MESSAGES)
    tools: list[OfferedTool] | None = Field(default=None, max_length=MOST_TOOLS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    model: str | None = None

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`. What is counted and shown is always ready for an answer."""
        begun = self.messages is not None and isinstance(self.messages[-1], AssistantMessage)
        vain = {
            "add_generation_prompt": self.add_generation_prompt is False and not begun,
            "continue_final_message": self.continue_final_message is True and not begun,
        }
        return [*super().ignored(), *(name for name, is_vain in vain.items() if is_vain)]

    def chat(self) -> ChatInput:
        """What is said. Raises InvalidRequest where nothing is."""
        if self.messages is None:
            raise InvalidRequest("The field messages is missing. Send it.", field="messages")
        items = message_items(self.messages)
        if self.continue_final_message is not False:
            items, prefill = split_prefill(items)
        else:
            prefill = ""
        return ChatInput(items, prefill=prefill, tool_use=ToolUse(tuple(shown_tools(self.tools))))


class TokenizeRequest(Conversation):
    """llama.cpp's has `content`; vLLM's has `prompt` or `messages`."""

    content: str | None = None
    with_pieces: bool = False
    add_special: NoOp = None
    parse_special: NoOp = None
    prompt: str | None = None
    return_token_strs: bool | None = None
    add_special_tokens: NoOp = None

    def encode(self, service: TokenService) -> tuple[int, ...]:
        """The ids, as a request with the same would have them. Call it in a thread. Raises InvalidRequest."""
        given = [value is not None for value in (self.content, self.prompt, self.messages)]
        if given.count(True) != 1:
            raise InvalidRequest("Send one of content, prompt and messages.", field="content")
        if self.messages is not None:
            return service.encode_chat(self.chat())
        return service.encode_prompt(self.content or self.prompt or "").input.ids


class DetokenizeRequest(RequestObject):
    """Token ids."""

    tokens: list[int]
    model: str | None = None


@router.post("/tokenize", response_model=None)
async def tokenize(request: Request, body: TokenizeRequest, services: ServicesDep) -> Response:
    """A text's ids (`content`: llama.cpp; `prompt`: vLLM), or those of a conversation (`messages`: vLLM)."""
    model = await services.models.named(body.model)
    length = model.info.context_length
    return await services.bodies.encoded(request, lambda: JSONResponse(_tokenized(body, model.tokens, length)))


def _tokenized(body: TokenizeRequest, service: TokenService, context_length: int) -> dict[str, Any]:
    ids = body.encode(service)
    pieces = service.pieces(ids) if body.with_pieces or body.return_token_strs else []
    if body.content is not None:
        if not body.with_pieces:
            return {"tokens": ids}
        return {"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in zip(ids, pieces, strict=True)]}
    return {
        "count": len(ids),
        "max_model_len": context_length,
        "tokens": ids,
        "token_strs": [piece.decode(errors="replace") for piece in pieces] if body.return_token_strs else None,
    }


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, services: ServicesDep) -> dict[str, str]:
    """The text of ids, special tokens' names included: `content` for llama.cpp's clients, `prompt` for vLLM's."""
    model = await services.models.named(body.model)
    text = await asyncio.to_thread(model.tokens.decode, body.tokens, "tokens")
    return {"content": text, "prompt": text}


@router.post("/apply-template")
async def apply_template(request: Request, body: Conversation, services: ServicesDep) -> dict[str, str]:
    """A conversation as the model's template writes it, ready for the answer. In it a special token and its mere text
    look the same, so `/v1/completions` does not take it for a conversation.
    """
    model = await services.models.named(body.model)
    chat = body.chat()
    return {"prompt": await services.bodies.encoded(request, lambda: model.tokens.render_chat(chat))}


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
