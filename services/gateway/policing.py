"""Consent and the kill switch over HTTP: ``/v1/sessions/{id}/consent`` and ``/v1/scoring``.

Both are standing orders, so whoever owns the sessions obeys within a second, wherever it runs.
"""

from typing import Any, Final, Literal

import msgspec
from aiohttp import web

from pipeline.errors import BusError
from pipeline.policy import Policy
from services.auth import Principal
from services.bus.types import Session
from services.gateway import access, bodies, erasure
from services.gateway.app import Gateway
from services.gateway.entrance import Entrance, no_such_session
from services.orders import Kind
from services.policing import EVERYBODY, OPERATOR
from services.problems import Problem

CONSENT_STANDS_MS: Final = 600_000
"""Its owner remembers it as long as the session lives; this outlasts an outage of the bus."""
SWITCH_STANDS_MS: Final = 10 * 365 * 24 * 3_600_000
"""Until somebody switches again."""
NOT_YOURS: Final = (
    "only the session's own publisher or an admin may decide this: use a token with its "
    "'ingest' scope"
)


class ConsentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person decided about their own session."""

    state: Literal["granted", "withdrawn"]
    notice_version: str | None = None
    """Version of the notice they saw; needed to grant."""
    release: bool = False
    """They signed a written release."""


class Consented(msgspec.Struct, frozen=True):
    """What stands now."""

    session_id: str
    participant: str
    state: Literal["granted", "withdrawn"]
    erased: erasure.Erased | None = None
    """What is gone, once it was withdrawn."""


class SwitchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``PUT /v1/scoring``."""

    scoring: Literal["on", "off"]
    everywhere: bool = False
    """For all tenants; only for administrators of the tenant ``default``."""


class Switch(msgspec.Struct, frozen=True):
    """How scoring stands for the asker's tenant."""

    scoring: Literal["on", "off"]
    """``off`` when either of the two is."""
    tenant: Literal["on", "off"]
    everywhere: Literal["on", "off"]


def routes(app: web.Application, gateway: Gateway) -> None:
    """Add both addresses to ``app``, whose middleware must be :mod:`services.problems`'s."""
    door = _Door(gateway)
    app.router.add_put("/v1/sessions/{session_id}/consent", door.consent)
    app.router.add_get("/v1/scoring", door.scoring)
    app.router.add_put("/v1/scoring", door.switch)


async def owned(entrance: Entrance, principal: Principal, session_id: str) -> Session:
    """Return a session that a token may decide about: its publisher's, or any to an admin.

    Raises :class:`Problem`: 404 for sessions that the token cannot see, 403 for those it only
    reads.
    """
    session = await entrance.find(principal, session_id)
    if session is not None and access.erases(principal, session):
        return session
    if session is not None and access.reads(principal, session):
        raise Problem(403, "forbidden", NOT_YOURS)
    raise no_such_session()


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway)

    async def consent(self, request: web.Request) -> web.Response:
        """Take consent, or its withdrawal: then scoring stops and what there is is erased."""
        principal = self._entrance.principal(request)
        session = await owned(self._entrance, principal, request.match_info["session_id"])
        wish = await bodies.read(request, ConsentRequest)
        if wish.state == "granted":
            self._check_grant(session, wish)
        gone = await erasure.held(self._gateway, session) if wish.state == "withdrawn" else None
        await self._give("consent", session.session_id, wish.state, CONSENT_STANDS_MS)
        self._gateway.audit.note(
            "consent",
            principal,
            session=session.session_id,
            state=wish.state,
            notice=wish.notice_version,
            release=wish.release or None,
        )
        if gone is not None:
            await erasure.finished(self._gateway, session)
            self._gateway.audit.note(
                "erased", principal, session=session.session_id, events=gone.events
            )
        return _json(Consented(session.session_id, erasure.PARTICIPANT, wish.state, gone))

    def _check_grant(self, session: Session, wish: ConsentRequest) -> None:
        policy = self._policy()
        if session.state != "live":
            raise Problem(409, "session_over", "the session is over: publish anew and agree there")
        if wish.notice_version != policy.notice.version:
            raise Problem(
                409,
                "notice_outdated",
                f"the notice in force has version '{policy.notice.version}': show the text of "
                "GET /v1/policy and name its version as 'notice_version'",
            )
        if policy.needs_release and not wish.release:
            raise Problem(
                409,
                "release_required",
                f"{policy.jurisdiction} wants a written release: send '\"release\": true' once "
                "the person has signed it",
            )

    async def scoring(self, request: web.Request) -> web.Response:
        """How the kill switch stands."""
        return _json(self._stands(self._entrance.principal(request).tenant))

    async def switch(self, request: web.Request) -> web.Response:
        """Switch scoring off or on for the admin's tenant, or for everybody."""
        principal = self._entrance.admin(request)
        wish = await bodies.read(request, SwitchRequest)
        if wish.everywhere and principal.tenant != OPERATOR:
            raise Problem(
                403,
                "forbidden",
                f"only an administrator of the tenant '{OPERATOR}' may switch for everybody: "
                "leave 'everywhere' away to switch for your own",
            )
        name = EVERYBODY if wish.everywhere else principal.tenant
        await self._give("scoring", name, wish.scoring, SWITCH_STANDS_MS)
        self._gateway.audit.note(
            "scoring", principal, state=wish.scoring, everywhere=wish.everywhere
        )
        return _json(self._stands(principal.tenant))

    def _stands(self, tenant: str) -> Switch:
        own, all_of_them = self._switch(tenant), self._switch(EVERYBODY)
        return Switch("off" if "off" in (own, all_of_them) else "on", own, all_of_them)

    def _switch(self, name: str) -> Literal["on", "off"]:
        return "off" if self._gateway.orders.value("scoring", name) == "off" else "on"

    async def _give(self, kind: Kind, name: str, value: str, stands_ms: int) -> None:
        until_ms = self._gateway.clock.wall_ms() + stands_ms
        try:
            await self._gateway.orders.give(kind, name, value, until_ms)
        except BusError as error:
            if error.retryable:
                raise
            raise Problem(503, "orders_full", str(error), {"Retry-After": "60"}) from error

    def _policy(self) -> Policy:
        if self._gateway.policy is None:
            raise Problem(404, "no_policy", "this process scores nothing; ask the one that does")
        return self._gateway.policy


def _json(body: Any) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
