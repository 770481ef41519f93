"""Calls a stand-in of OpenAI's API, inside a transaction for each line of its input, which says how.

The first argument has more options of the SDK, as JSON.
"""

import json
import os
import sys
from typing import Any

import openai
import sentry_sdk

SAID = "canary-question"
sent = ""


def note(event: Any, hint: Any) -> Any:
    global sent
    sent = repr(event)
    return event


sentry_sdk.init(
    dsn=os.environ["DSN"],
    release="shop@1.2.3",
    environment="testing",
    traces_sample_rate=1.0,
    # Sends what was asked and answered too.
    send_default_pii=True,
    before_send_transaction=note,
    **json.loads(sys.argv[1]),
)
client = openai.OpenAI(api_key="none", base_url=os.environ["OPENAI_URL"], max_retries=0)


def call(how: str) -> None:
    model = "gpt-refused" if how == "refused" else "gpt-test"
    if how == "responses":
        client.responses.create(model=model, instructions=SAID, input=SAID)
    elif how == "embeddings":
        client.embeddings.create(model=model, input=SAID)
    elif how == "stream":
        messages: Any = [{"role": "user", "content": SAID}]
        for _ in client.chat.completions.create(
            model=model, messages=messages, stream=True, stream_options={"include_usage": True}
        ):
            pass
    else:
        messages = [{"role": "system", "content": SAID}, {"role": "user", "content": SAID}]
        client.chat.completions.create(model=model, messages=messages, temperature=0.5)


for line in sys.stdin:
    how = line.strip()
    with sentry_sdk.start_transaction(op="task", name=how):
        try:
            call(how)
        except openai.APIError as error:
            print(error, file=sys.stderr)
    sentry_sdk.flush(timeout=20)
    assert SAID in sent, "the SDK did not send what was asked"
    print("done", flush=True)
