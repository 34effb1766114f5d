"""``/docs/errors``: what every stable error code means and what to do, where ``doc`` points."""

from html import escape

ERRORS = {
    "audit_away": "The audit log cannot be written, so nobody new may read; come back soon.",
    "auth_timeout": "Send the auth message within five seconds of connecting.",
    "at_capacity": "All streams of this server are in use; Retry-After says when to come back.",
    "bad_body": "The request body is not what this address takes; the message says what is.",
    "bad_expiry": "Give the token's own claim 'exp', in unix milliseconds.",
    "bad_format": "Ask for one of the formats that the answer names.",
    "bad_host": "Address this server as localhost or 127.0.0.1.",
    "bad_message": "The message is no JSON, of no known type, or a field is out of its range.",
    "bad_meta": "The meta parameters are too long or no text; shorten or encode them.",
    "bad_query": "A query parameter is out of its range; the message names it.",
    "bad_sdp": "The offer is no SDP; send what createOffer made, unchanged.",
    "bad_sort": "Sort by one of the orders that the answer names.",
    "bad_stream_name": "Stream names have 1 to 64 letters, digits, '_' or '-'.",
    "body_too_large": "The request body is larger than this address takes.",
    "bus_away": "The result bus does not answer; come back in a few seconds.",
    "draining": "The server goes away; connect again, with some jitter.",
    "explain_budget": "This tenant asked for its explanations; Retry-After says when to ask again.",
    "explain_off": "No explain model runs here, or none by request: demeanor up --explain DIR.",
    "forbidden": "The token's scopes do not allow this; ask for one that does.",
    "internal": "Our fault; the server log has the request id.",
    "loop_busy": "The server is busy with running streams; come back after Retry-After.",
    "memory": "Memory is nearly full; wait until a stream ends, or give the server more.",
    "method_not_allowed": "The Allow header names the methods of this address.",
    "no_common_codec": "Offer VP8 or H264 for video, and Opus or G.711 or G.722 for audio.",
    "no_ice_restart": "ICE restart is not supported; publish anew.",
    "no_such_participant": "A session has one participant, p1.",
    "notice_outdated": "Show the notice of GET /v1/policy and name its version.",
    "release_required": "The policy wants a written release: send it with the consent.",
    "session_over": "The session is over; publish anew and agree there.",
    "not_live": "Only what a live session shows now can be explained; publish anew.",
    "no_policy": "This process scores nothing; ask the one that does.",
    "no_such_resource": "The WHIP resource is gone or was never yours.",
    "no_such_session": "The session does not exist or ended more than two minutes ago.",
    "no_such_subscription": "Unsubscribe with the id that was given to subscribe.",
    "not_found": "There is nothing at this address; /openapi.json names what exists.",
    "orders_full": "Too many orders stand already; wait until some expire.",
    "origin": "Only this server's own pages and those of --origins may ask from a browser.",
    "other_participant": "Renew with a token of the same role and context, or publish anew.",
    "policy_denied": "The policy does not let this role be scored; GET /v1/policy.",
    "precondition_failed": "The If-Match header does not name the current ICE session.",
    "precondition_required": "Send If-Match with the ETag of the answer.",
    "rate_limited": "Send fewer messages; retry_after_ms says when to go on.",
    "scorer_busy": "The models are busy with running streams; come back after Retry-After.",
    "slow_body": "The request body came too slowly.",
    "slow_reader": "Read faster, or ask for less: events, roles, max_hz.",
    "stream_live": "Somebody publishes to this stream; choose another name or wait.",
    "stream_lost": "The process that owned the session is gone; a new session may follow.",
    "stream_replaced": "A newer publisher took over the stream; subscribe to its session.",
    "token_expired": "The token has expired; connect again with a new one.",
    "token_expiring": "The token expires soon; send 'auth' with a new one, or connect again.",
    "token_in_url": "Send the token in the Authorization header, never in the address.",
    "token_revoked": "The token was revoked; ask whoever issued it for another one.",
    "too_many_bad_tokens": "Wait as long as Retry-After says, then send a valid token.",
    "too_many_connections": "Close a connection of this token first, or use another token.",
    "too_many_tickets": "Use the tickets you have, or wait until they expire.",
    "too_many_subscriptions": "Unsubscribe from something first.",
    "try_later": "The server is full or draining; Retry-After says when to come back.",
    "unauthorised": "Send a valid bearer token.",
    "wrong_content_type": "Send the media type that the Accept headers of the answer name.",
    "unusable_sdp": "The offer cannot be answered; the message says what is in the way.",
}
"""Stable code → what to do."""


def page() -> str:
    """Return the page as HTML."""
    rows = "\n".join(
        f'<dt id="{escape(code)}"><code>{escape(code)}</code></dt><dd>{escape(words)}</dd>'
        for code, words in sorted(ERRORS.items())
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Demeanor – errors</title>"
        '<link rel="stylesheet" href="/style.css"></head>\n'
        f"<body><main><h1>Errors</h1>\n<dl>\n{rows}\n</dl></main></body></html>\n"
    )
