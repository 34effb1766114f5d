"""What went wrong with a source, in one sentence that says what to do."""

import errno

import av

from pipeline.errors import MediaError
from pipeline.types import TICKS_PER_S
from services.ingest.address import CONNECT_S, Address


def refusal(address: Address, error: Exception) -> MediaError:
    """Return why a source could not be opened."""
    spec = address.spec
    if address.device:
        return MediaError(_device(address, error))
    if isinstance(error, (av.InvalidDataError, UnicodeError)):
        return MediaError(
            f"{spec} is not media that can be read, or is cut off before its index: "
            "give audio or video"
        )
    if isinstance(error, (av.PermissionError, PermissionError)):
        return MediaError(f"{spec} may not be read: change its permissions")
    if isinstance(error, av.HTTPUnauthorizedError | av.HTTPForbiddenError):
        return MediaError(f"{spec} wants other credentials: put user:password@ into the URL")
    if isinstance(error, av.HTTPError | av.HTTPNotFoundError):
        return MediaError(f"{spec} was refused by its server ({_plain(error)}): check the address")
    if isinstance(error, (av.ExitError, av.TimeoutError, TimeoutError)):
        return MediaError(f"{spec} did not answer within {CONNECT_S:.0f} s: is it running?")
    if isinstance(error, (av.ConnectionRefusedError, ConnectionRefusedError)):
        return MediaError(f"nothing answers at {spec}: is the server running?")
    return MediaError(f"{spec} cannot be opened: {_plain(error)}")


def lost(address: Address, error: Exception, position_ticks: int) -> str:
    """Return why a source that was being read gave no more."""
    at = clock(position_ticks)
    if isinstance(error, (av.ExitError, av.TimeoutError, TimeoutError)):
        return f"{address.spec} sent nothing for {CONNECT_S:.0f} s after {at}: it was given up"
    return f"{address.spec} broke off at {at} ({_plain(error)}): what could be read was used"


def clock(ticks: int) -> str:
    """Return ``01:12`` for media time."""
    seconds = ticks // TICKS_PER_S
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _device(address: Address, error: Exception) -> str:
    number = getattr(error, "errno", None)
    name = f"the {address.device} {address.url}"
    if number == errno.EBUSY:
        return f"{name} is in use by another program: close that program"
    if number in (errno.EACCES, errno.EPERM):
        return f"{name} may not be used: add yourself to the group 'video' or 'audio'"
    if address.device == "camera":
        return f"{name} cannot be opened: plug one in, or name another, as in webcam:1"
    return f"{name} cannot be opened: plug one in, or name another, as in mic:hw:1"


def _plain(error: Exception) -> str:
    text = getattr(error, "strerror", None) or type(error).__name__
    return str(text)[:1].lower() + str(text)[1:]
