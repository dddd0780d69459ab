"""Handles `webhook-python`: sends each event to a webhook, signed, and tells an answer that will do from one that may later.

The request follows Standard Webhooks (https://www.standardwebhooks.com): `webhook-id` is the event's idempotency key, the
same for every attempt, so that the receiver can tell an event that it has seen.
"""

import base64
import hashlib
import hmac
import json
import time

import outgoing
from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import config, delivery, secrets
from wit_world.imports.eventstream_plugin_types import (
    Event,
    EventData,
    EventData_Text,
    Failure_Reject,
    Failure_Retry,
    RetryRequest,
)


class Handler(exports.Handler):
    def handle(self, event: Event) -> EventData | None:
        url = config.get("url")
        if not url:
            raise reject('there is no address to send to: set config = { url = "https://…" } and grant it')
        if not isinstance(event.data, EventData_Text):
            raise reject("a webhook is sent a payload of JSON")
        body = event.data.value.encode()
        try:
            answer = outgoing.post(url, headers(body), body)
        except ValueError as error:
            raise reject(f"{url} cannot be sent to: {error}")
        except outgoing.Denied as denied:
            # The host's log has the line that grants it; until then trying again cannot help.
            raise reject(f"{url} is not granted to this plugin: {denied}")
        except outgoing.Failed as failed:
            raise retry(f"{url} cannot be reached: {failed}", None)
        return EventData_Text(json.dumps(taken(url, answer)))


def headers(body: bytes) -> list[tuple[str, str]]:
    """What goes with the body; signed if there is a secret."""
    message_id, now = delivery.idempotency_key(), str(int(time.time()))
    headers = [("content-type", "application/json"), ("webhook-id", message_id), ("webhook-timestamp", now)]
    secret = secrets.get("signing-key")
    if secret:
        signed = b".".join([message_id.encode(), now.encode(), body])
        code = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        headers.append(("webhook-signature", f"v1,{base64.b64encode(code).decode()}"))
    return headers


def taken(url: str, answer: outgoing.Answer) -> dict:
    """What the receiver made of it, if it took it."""
    if 200 <= answer.status < 300:
        return {"status": answer.status, "attempt": delivery.attempt()}
    words = f"{url} answered {answer.status}"
    if answer.status in (408, 425, 429) or answer.status >= 500:
        raise retry(words, answer.retry_after_ms)
    raise reject(words)


def retry(message: str, after_ms: int | None) -> Err:
    return Err(Failure_Retry(RetryRequest(message, after_ms)))


def reject(message: str) -> Err:
    return Err(Failure_Reject(message))
