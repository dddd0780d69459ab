"""One HTTP request through `wasi:http`, which the operator has to grant."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world.imports import outgoing_handler
from wit_world.imports.wasi_http_types import (
    ErrorCode,
    ErrorCode_DestinationIpProhibited,
    ErrorCode_HttpRequestDenied,
    Fields,
    Method_Post,
    OutgoingBody,
    OutgoingRequest,
    Scheme_Http,
    Scheme_Https,
)

# What one write takes at most.
CHUNK_BYTES = 4096


class Denied(Exception):
    """The host does not let the plugin send this."""


class Failed(Exception):
    """There was no answer."""


@dataclass
class Answer:
    status: int
    retry_after_ms: int | None


def post(url: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
    """Sends a body and waits for the answer, of which the status is read and not the body.

    Raises ValueError for an address that is none, Denied, or Failed.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise ValueError("it is not an address such as https://example.com/hooks")
    fields = Fields()
    # With its length known the body is sent as it is and not in chunks, which some receivers do not take.
    for name, value in [*headers, ("content-length", str(len(body)))]:
        fields.append(name, value.encode())
    request = OutgoingRequest(fields)
    request.set_method(Method_Post())
    request.set_scheme(Scheme_Https() if address.scheme == "https" else Scheme_Http())
    request.set_authority(address.netloc)
    path = address.path or "/"
    request.set_path_with_query(f"{path}?{address.query}" if address.query else path)
    outgoing_body = request.body()
    try:
        response = outgoing_handler.handle(request, None)
        write(outgoing_body, body)
    except Err as error:
        raise told(error.value) from None
    with response.subscribe() as answered:
        answered.block()
    match response.get():
        case Ok(Ok(answer)):
            return Answer(answer.status(), retry_after_ms(answer.headers().get("retry-after")))
        case Ok(Err(code)):
            raise told(code)
        case _:
            raise Failed("no answer")


def write(outgoing_body: OutgoingBody, body: bytes) -> None:
    """Whoever stops reading, or lets nothing be sent, says why in the answer."""
    try:
        with outgoing_body.write() as stream:
            for start in range(0, len(body), CHUNK_BYTES):
                stream.blocking_write_and_flush(body[start : start + CHUNK_BYTES])
        OutgoingBody.finish(outgoing_body, None)
    except Err:
        pass


def told(code: ErrorCode) -> Exception:
    words = type(code).__name__.removeprefix("ErrorCode_")
    denied = isinstance(code, (ErrorCode_HttpRequestDenied, ErrorCode_DestinationIpProhibited))
    return Denied(words) if denied else Failed(words)


def retry_after_ms(values: list[bytes]) -> int | None:
    """The seconds that the receiver asks for; a date is left to the policy."""
    text = values[0].decode("ascii", "replace").strip() if values else ""
    return int(text) * 1000 if text.isdigit() and len(text) < 7 else None
