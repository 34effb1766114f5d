"""What the start-up screen says about tokens and TLS: what works, and what travels in clear."""

from services.auth import Guard, is_loopback
from services.settings import Settings

_ISSUE = "demeanor token issue --help"


def lines(settings: Settings, guard: Guard) -> list[str]:
    """Return what is on and off, for the upper part of the screen."""
    said = []
    if guard.verifier is not None:
        dev = "; 'dev' works on this machine" if guard.loopback_only else ""
        said.append(f"✔ tokens   signed ones, keys from {settings.token_keys}{dev}")
    if settings.tls_cert is not None:
        said.append(f"✔ tls      {settings.tls_cert}")
    if settings.public_url is not None:
        said.append(f"✔ proxy    clients come by {settings.public_url}")
    if guard.verifier is None:
        said.append("○ off      tokens      demeanor token keys DIR")
    return said


def warning(settings: Settings) -> str | None:
    """Return what is dangerous about these settings, in one sentence."""
    behind_tls = (settings.public_url or "").startswith("https://")
    if is_loopback(settings.host) or settings.tls_cert is not None or behind_tls:
        return None
    return (
        "tokens travel in clear: give --tls-cert and --tls-key, or put a proxy with TLS in front "
        "and name it with --public-url (deploy/proxy.md)"
    )


def token_hint(guard: Guard) -> str:
    """Return which bearer token a publisher needs."""
    if guard.verifier is None:
        return "dev"
    return f"dev, or {_ISSUE}" if guard.loopback_only else _ISSUE
