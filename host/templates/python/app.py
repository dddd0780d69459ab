"""Handles `{{name}}`: greets whoever the payload names."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import config, log
from wit_world.imports.types import Event, EventData, EventData_Text, Failure_Reject


class Handler(exports.Handler):
    def handle(self, event: Event) -> EventData | None:
        if not isinstance(event.data, EventData_Text):
            raise reject("the event needs a JSON payload")
        payload = json.loads(event.data.value)
        if not isinstance(payload, dict) or not isinstance(payload.get("name"), str):
            raise reject('the payload is wrong: it needs a "name"')
        greeting = config.get("greeting") or "Hello"
        log.log(log.Level.INFO, "greeted", [("name", payload["name"])])
        return EventData_Text(json.dumps({"text": f"{greeting}, {payload['name']}!"}))


def reject(message: str) -> Err:
    """Rejects an event that can never succeed. Failure_Retry(RetryRequest(message, None)) asks for another attempt."""
    return Err(Failure_Reject(message))
