"""A stand-in for the HTTP APIs of OpenAI and Anthropic: each answer has the same words and tokens."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERED = "canary-answered"
"""A part of every answer."""

REFUSED = "refused"
"""A model whose name has this in it is refused: with 429 by OpenAI, with 529 by Anthropic."""

LATENCY = 0.02
"""Seconds that pass before an answer, and before each of its parts if it is streamed."""

_ids = itertools.count(1)

WORDS = (f"{ANSWERED} begins", ", goes on", " and ends.")

OPENAI_USAGE = {
    "prompt_tokens": 1200,
    "completion_tokens": 34,
    "total_tokens": 1234,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}

ANTHROPIC_USAGE = {
    # Unlike OpenAI's, without those read from the cache and written to it.
    "input_tokens": 76,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 124,
    "output_tokens": 34,
}


def _openai_chat(asked: dict[str, Any]) -> list[Any]:
    head = {"id": f"chatcmpl-{next(_ids)}", "created": 1764000000, "model": f"{asked['model']}-2024-07-18"}
    if not asked.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
        reason = "stop"
        if "tools" in asked:
            call = {"name": "look_up", "arguments": json.dumps({"word": ANSWERED})}
            message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return [{**head, "object": "chat.completion", "choices": [choice], "usage": OPENAI_USAGE}]
    head |= {"object": "chat.completion.chunk"}
    deltas = [
        ({"role": "assistant", "content": ""}, None),
        *(({"content": word}, None) for word in WORDS),
        ({}, "stop"),
    ]
    parts = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}
        for delta, reason in deltas
    ]
    if asked.get("stream_options", {}).get("include_usage"):
        parts.append({**head, "choices": [], "usage": OPENAI_USAGE})
    return [*parts, "[DONE]"]


def _openai_response(asked: dict[str, Any]) -> list[Any]:
    content = [{"type": "output_text", "text": "".join(WORDS), "annotations": []}]
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}
    return [
        {
            "id": f"resp_{next(_ids)}",
            "object": "response",
            "created_at": 1764000000,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "model": f"{asked['model']}-2024-07-18",
            "output": [message],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 1200,
                "input_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 0},
                "output_tokens": 34,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 1234,
            },
        }
    ]


def _openai_embeddings(asked: dict[str, Any]) -> list[Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25, 0.125]}]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    return [{"object": "list", "data": data, "model": asked["model"], "usage": usage}]


def _anthropic_messages(asked: dict[str, Any]) -> list[Any]:
    message: dict[str, Any] = {
        "id": f"msg_{next(_ids)}",
        "type": "message",
        "role": "assistant",
        "model": f"{asked['model']}-20250514",
        "content": [{"type": "text", "text": "".join(WORDS)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": ANTHROPIC_USAGE,
    }
    if "tools" in asked:
        call = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": ANSWERED}}
        message |= {"content": [call], "stop_reason": "tool_use"}
    if not asked.get("stream"):
        return [message]
    start = {**message, "content": [], "stop_reason": None, "usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 34}}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", **block},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", **end},
        {"type": "message_stop"},
    ]


ROUTES = {
    "/v1/chat/completions": _openai_chat,
    "/v1/responses": _openai_response,
    "/v1/embeddings": _openai_embeddings,
    "/v1/messages": _anthropic_messages,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(LATENCY)
        if REFUSED in asked["model"]:
            anthropic = self.path == "/v1/messages"
            error = {"type": "overloaded_error" if anthropic else "requests", "message": "Too many requests"}
            if not anthropic:
                error["code"] = "rate_limit_exceeded"
            self._send(529 if anthropic else 429, "application/json", json.dumps({"type": "error", "error": error}))
        elif asked.get("stream"):
            self._stream(ROUTES[self.path](asked))
        else:
            (answer,) = ROUTES[self.path](asked)
            self._send(200, "application/json", json.dumps(answer))

    def _send(self, status: int, media_type: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _stream(self, parts: list[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in parts:
            time.sleep(LATENCY)
            name = f"event: {part['type']}\n" if "type" in part else ""
            text = part if isinstance(part, str) else json.dumps(part)
            self.wfile.write(f"{name}data: {text}\n\n".encode())
            self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """Serve both APIs on one port of this machine; yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
