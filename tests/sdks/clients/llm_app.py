"""Calls stand-ins of the APIs of OpenAI and Anthropic, inside a transaction for each line of its input, which says how.

The first argument has more options of the SDK, as JSON.
"""

import json
import os
import sys
from typing import Any

import anthropic
import openai
import sentry_sdk
from langchain_openai import ChatOpenAI
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.langchain import LangchainIntegration
from sentry_sdk.transport import HttpTransport

SAID = "canary-question"
USER: Any = [{"role": "user", "content": SAID}]
sent = b""


class Transport(HttpTransport):
    """Notes what it sends."""

    def capture_envelope(self, envelope: Envelope) -> None:
        global sent
        sent += envelope.serialize()
        super().capture_envelope(envelope)


options = json.loads(sys.argv[1])
if not options.pop("langchain", False):
    # Where LangChain is installed, the SDK describes its calls, and none of the clients below it.
    options["disabled_integrations"] = [LangchainIntegration()]
sentry_sdk.init(
    dsn=os.environ["DSN"],
    release="shop@1.2.3",
    environment="testing",
    traces_sample_rate=1.0,
    # Sends what was asked and answered too.
    send_default_pii=True,
    transport=Transport,
    **options,
)
url = os.environ["APIS_URL"]
gpt = openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
claude = anthropic.Anthropic(api_key="none", base_url=url, max_retries=0)


def chat(model: str) -> None:
    system: Any = {"role": "system", "content": SAID}
    gpt.chat.completions.create(model=model, messages=[system, *USER], temperature=0.5)


def stream() -> None:
    for _ in gpt.chat.completions.create(
        model="gpt-test", messages=USER, stream=True, stream_options={"include_usage": True}
    ):
        pass


def claude_stream() -> None:
    for _ in claude.messages.create(model="claude-test", max_tokens=100, messages=USER, stream=True):
        pass


def langchain() -> None:
    model: Any = ChatOpenAI
    model(model="gpt-test", api_key="none", base_url=f"{url}/v1", max_retries=0).invoke(SAID)


CALLS = {
    "chat": lambda: chat("gpt-test"),
    "stream": stream,
    "responses": lambda: gpt.responses.create(model="gpt-test", instructions=SAID, input=SAID),
    "embeddings": lambda: gpt.embeddings.create(model="gpt-test", input=SAID),
    "refused": lambda: chat("gpt-refused"),
    "claude": lambda: claude.messages.create(model="claude-test", max_tokens=100, system=SAID, messages=USER),
    "claude-stream": claude_stream,
    "claude-refused": lambda: claude.messages.create(model="claude-refused", max_tokens=100, messages=USER),
    "langchain": langchain,
}

for line in sys.stdin:
    how = line.strip()
    sent = b""
    with sentry_sdk.start_transaction(op="task", name=how):
        try:
            CALLS[how]()
        except (openai.APIError, anthropic.APIError) as error:
            print(error, file=sys.stderr)
    sentry_sdk.flush(timeout=20)
    assert SAID.encode() in sent, "the SDK did not send what was asked"
    print("done", flush=True)
