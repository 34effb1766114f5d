"""Consent, erasure and the kill switch over HTTP.

``PUT /v1/sessions/{id}/consent``, ``DELETE /v1/sessions/{id}`` and ``/v1/scoring``. Consent and the
switch are standing orders, so whoever owns the sessions obeys within a second, wherever it runs.
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
    "only the session's own publisher or a token with the scope 'admin' may decide this"
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
    """Add all addresses to ``app``, whose middleware must be :mod:`services.problems`'s."""
    door = _Door(gateway)
    app.router.add_delete("/v1/sessions/{session_id}", door.erase)
    app.router.add_put("/v1/sessions/{session_id}/consent", door.consent)
    app.router.add_get("/v1/scoring", door.scoring)
    app.router.add_put("/v1/scoring", door.switch)


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway)

    async def erase(self, request: web.Request) -> web.Response:
        """End a session and erase its data: 204; with ``participant`` 200 and what is gone."""
        principal, session = await self._owned(request)
        participant = request.query.get("participant")
        if participant not in (None, erasure.PARTICIPANT):
            raise Problem(
                404,
                "no_such_participant",
                f"a session has one participant: '{erasure.PARTICIPANT}'",
            )
        gone = await erasure.erase(self._gateway, session)
        self._note_erased(principal, gone)
        return web.Response(status=204) if participant is None else _json(gone)

    async def consent(self, request: web.Request) -> web.Response:
        """Take consent, or its withdrawal: then scoring stops and what there is is erased."""
        principal, session = await self._owned(request)
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
            self._note_erased(principal, gone)
        return _json(Consented(session.session_id, erasure.PARTICIPANT, wish.state, gone))

    async def _owned(self, request: web.Request) -> tuple[Principal, Session]:
        """Return who asks about a session of their own; an admin's own are all of the tenant.

        Raises :class:`Problem`: 403 for somebody else's, 404 where there is none.
        """
        principal = self._entrance.principal(request)
        if not (principal.may("admin") or principal.ingest):
            raise Problem(403, "forbidden", NOT_YOURS)
        session = await self._entrance.find(principal, request.match_info["session_id"])
        if session is None:
            raise no_such_session()
        if not access.erases(principal, session):
            raise Problem(403, "forbidden", NOT_YOURS)
        return principal, session

    def _note_erased(self, principal: Principal, gone: erasure.Erased) -> None:
        self._gateway.audit.note("erased", principal, session=gone.session_id, events=gone.events)

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
