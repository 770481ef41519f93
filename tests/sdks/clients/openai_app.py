"""Calls an OpenAI API for each model that its input names, one on each line, inside one transaction each."""

import os
import sys

import openai
import sentry_sdk

sentry_sdk.init(dsn=os.environ["DSN"], release="shop@1.2.3", environment="testing", traces_sample_rate=1.0)
client = openai.OpenAI(api_key="none", base_url=os.environ["OPENAI_URL"], max_retries=0)

for line in sys.stdin:
    model, _, kind = line.strip().partition(" ")
    with sentry_sdk.start_transaction(op="task", name=model):
        try:
            if kind == "stream":
                options = {"include_usage": True}
                messages = [{"role": "user", "content": "a secret question"}]
                for _ in client.chat.completions.create(
                    model=model, messages=messages, stream=True, stream_options=options
                ):
                    pass
            else:
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a secret question"}])
        except openai.APIError as error:
            print(error, file=sys.stderr)
    sentry_sdk.flush(timeout=20)
    print("done", flush=True)
