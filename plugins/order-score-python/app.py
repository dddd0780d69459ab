"""Handles `order-score-python`: says how much an order looks like fraud, and has the suspicious ones looked at."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import config
from wit_world.imports.publisher import NewEvent, publish
from wit_world.imports.types import Event, EventData, EventData_Text, Failure_Reject


class Handler(exports.Handler):
    def handle(self, event: Event) -> EventData | None:
        if not isinstance(event.data, EventData_Text):
            raise reject("an order has a JSON payload")
        order = json.loads(event.data.value)
        try:
            score, reasons = assess(order)
        except (KeyError, TypeError) as error:
            raise reject(f"the order is incomplete: {error!r}")
        result = json.dumps({"score": score, "reasons": reasons})
        if score >= int(config.get("suspicious-from") or "50"):
            publish(NewEvent("order.suspicious", event.subject, None, [], EventData_Text(result), None))
        return EventData_Text(result)


def assess(order: dict) -> tuple[int, list[str]]:
    """The score from 0 to 100, and what it comes from."""
    rules = [
        (40, "another country than the card's", order["country"] != order["card_country"]),
        (30, "a large amount", order["amount_cents"] > 50_000),
        (20, "a new customer", order["orders_before"] == 0),
        (10, "many of one thing", any(line["quantity"] > 20 for line in order["lines"])),
    ]
    reasons = [(points, reason) for points, reason, holds in rules if holds]
    return sum(points for points, _ in reasons), [reason for _, reason in reasons]


def reject(message: str) -> Err:
    return Err(Failure_Reject(message))
