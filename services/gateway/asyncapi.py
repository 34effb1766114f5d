"""``/asyncapi.json``: the event socket with its control messages, tokens and close codes."""

from typing import Any

from pipeline import schema
from services.gateway import protocol
from services.gateway.protocol import Code

CLOSES: dict[Code, str] = {
    Code.FINISHED: "finished",
    Code.DRAINING: "the server drains: connect again, with jitter",
    Code.TOO_BIG: "a message is longer than the limit in 'hello'",
    Code.INTERNAL: "our fault: connect again",
    Code.TRY_LATER: "not now: connect again after retry_after_ms",
    Code.BAD_MESSAGE: "a message is wrong: do not send it again",
    Code.UNAUTHORISED: "no token, or one that is bad, has expired or was revoked",
    Code.FORBIDDEN: "the token's scopes, its tenant or the page's origin do not allow it",
    Code.NO_SUCH_SESSION: "none of the named sessions exists",
    Code.REPLACED: "a newer publisher took over the stream",
    Code.MOVED: "another node has it: connect again at once",
    Code.SLOW_READER: "read faster, or ask for less",
    Code.RATE_LIMITED: "too many messages, connections or bad tokens: wait retry_after_ms",
}
"""What each close code means to a client."""

_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            "In the header of the handshake, as programs do; pages send it as the first message, "
            "'auth', within five seconds. Send 'auth' again to go on with a new token of the same "
            "tenant and role. Scopes: read:SESSION or read:*."
        ),
    },
    "ticket": {
        "type": "httpApiKey",
        "in": "query",
        "name": "ticket",
        "description": "From POST /v1/tickets: once, within ten seconds.",
    },
}


def document(version: str) -> dict[str, Any]:
    """Return the description of the event socket."""
    made = schema.asyncapi(
        version=version,
        sent=(
            protocol.Hello,
            protocol.Subscribed,
            protocol.Resumed,
            protocol.Unsubscribed,
            protocol.Pong,
            protocol.Drain,
        ),
        received=(
            protocol.Auth,
            protocol.Subscribe,
            protocol.Resume,
            protocol.Unsubscribe,
            protocol.Ping,
        ),
    )
    made["components"]["securitySchemes"] = _SCHEMES
    for operation in made["operations"].values():
        operation["security"] = [{"$ref": f"#/components/securitySchemes/{n}"} for n in _SCHEMES]
    channel = made["channels"]["events"]
    codes = "\n".join(f"* {int(code)}: {words}" for code, words in CLOSES.items())
    channel["description"] += (
        "\n\nBefore the upgrade: 400 a token in the address, 403 a wrong Host, 429 and 503 with "
        f"Retry-After.\n\nClose codes:\n\n{codes}"
    )
    ticket = {"type": "string", "description": "A one-use ticket."}
    channel["bindings"] = {
        "ws": {"query": {"type": "object", "properties": {"ticket": ticket}}},
    }
    return made
