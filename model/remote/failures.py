"""Errors of servers and connections, with the address and the next step for the user."""

import json
import ssl
from typing import Any

import httpx2

from config.errors import SenseNovaError
from model.errors import DeviceMemoryError, RequestError, ServerError
from model.remote.address import GO_ON, KEY_VARIABLE, Address

KEY_HINT = f"set {KEY_VARIABLE}, or name a file that contains the key: `server_key_file`"
CHECK = "check the address and the port"
RETRY_SECONDS = 5.0
"""Time until a request is sent again, if a busy server names none."""
WRONG_HOST = (62, 64)
"""OpenSSL's codes for a certificate of another name or address."""


class Refused(RequestError):
    """The server answered that the request is wrong.

    Attributes:
        status: its HTTP status.
        code: its word for programs; empty if it has none.
    """

    status = 0
    code = ""


class Unavailable(ServerError):
    """The server answered that it cannot run the request now.

    Attributes:
        code: its word for programs, such as `queue_full`; empty if it has none.
        retry_after: seconds after which to try again.
    """

    code = ""
    retry_after = RETRY_SECONDS


class UnreachableError(ServerError):
    """The server cannot be reached."""


class LostConnectionError(ServerError):
    """The connection ended too early, or nothing arrives on it any more."""


class DamagedAnswerError(ServerError):
    """An answer that a server of this kind does not send."""


def refusal(url: str, status: int, retry_after: str | None, content: bytes, *, has_key: bool = True) -> SenseNovaError:
    """Return the error for an answer with an error status, in the form of our server, of vLLM-Omni's, or of a proxy.

    Args:
        retry_after: the header `Retry-After`.
        has_key: whether the request had a key.
    """
    message, hint, code = _read_error(content)
    if status == 401:
        return RequestError(f"the server at {url} {'refuses the key' if has_key else 'needs a key'}", KEY_HINT)
    if status == 403 and code != "host_refused":
        return RequestError(f"the server at {url} refuses: {message or 'it gives no reason'}", KEY_HINT)
    if code == "out_of_memory" or (status == 500 and "out of memory" in message.lower()):
        return DeviceMemoryError(f"the server at {url}: {message}", hint)
    if status == 503:
        busy = Unavailable(f"the server at {url} cannot run this now: {message or 'it is not ready'}", hint)
        busy.code = code
        if retry_after is not None and retry_after.isdecimal():
            busy.retry_after = min(60.0, float(retry_after))
        return busy
    if status >= 500 or code == "cancelled":
        return ServerError(f"the server at {url}: {message or f'error {status}'}", hint)
    refused = Refused(message or f"the server at {url} answers with error {status}", hint)
    refused.status, refused.code = status, code
    return refused


def lost(address: Address, error: BaseException) -> SenseNovaError:
    """Return the error to show for an error of the HTTP library."""
    url, root = address.url, _root(error)
    hint = GO_ON if address.is_local else "check the address, and that the server runs"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        if isinstance(root, ssl.SSLCertVerificationError):
            return _untrusted(url, root)
        if isinstance(root, ssl.SSLError):
            return UnreachableError(f"{url} does not speak TLS: {_reason(error)}", "write http:// instead of https://")
        if address.is_local:
            return UnreachableError(f"the server at {url} has ended without removing its note", hint)
        return UnreachableError(f"the server at {url} cannot be reached: {_reason(error)}", hint)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return RequestError(f"{url} is not an address of a server", "write it like http://gpu-box:8642")
    if isinstance(error, httpx2.ProxyError):
        return UnreachableError(
            f"the proxy on the way to {url} fails: {_reason(error)}", "check HTTP_PROXY; NO_PROXY names exceptions"
        )
    if isinstance(error, httpx2.TimeoutException):
        return LostConnectionError(f"the server at {url} does not answer", hint)
    if isinstance(error, httpx2.RemoteProtocolError) and "illegal" in str(error):
        return DamagedAnswerError(f"{url} does not speak HTTP", f"{CHECK}; an address with TLS begins with https://")
    reason = "the server closed it" if isinstance(error, httpx2.RemoteProtocolError) else _reason(error)
    return LostConnectionError(f"the connection to {url} was lost: {reason}", "run it again when the server is back")


def _untrusted(url: str, error: ssl.SSLCertVerificationError) -> ServerError:
    if error.verify_code in WRONG_HOST:
        return UnreachableError(
            f"the certificate of {url} is for another name: {error.verify_message}", "use the name in the certificate"
        )
    return UnreachableError(
        f"the certificate of {url} is not trusted: {error.verify_message}",
        "set SSL_CERT_FILE to a file with that certificate, or with the one of its authority",
    )


def _read_error(content: bytes) -> tuple[str, str, str]:
    """Return message, hint and code of an error in JSON: `{"error": {…}}`, or FastAPI's `{"detail": …}`."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return "", "", ""
    error = fields.get("error", fields.get("detail")) if isinstance(fields, dict) else None
    if isinstance(error, list):
        return "; ".join(str(each.get("msg", each)) if isinstance(each, dict) else str(each) for each in error), "", ""
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("hint") or ""), str(error.get("code") or "")
    return str(error or ""), "", ""


def _root(error: BaseException) -> Any:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    root = _root(error)
    reason = getattr(root, "reason", None) or getattr(root, "strerror", None) or str(error) or type(error).__name__
    return str(reason)[:200]
