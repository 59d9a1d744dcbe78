"""Requests over HTTP, and what their failures mean for the user."""

import json
import queue
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx2

from config.errors import SenseNovaError
from model.errors import DeviceMemoryError, RequestError, ServerError
from model.remote.address import GO_ON, KEY_VARIABLE, Address

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 120.0
ASK_SECONDS = 30.0
"""Time for an answer that needs no model."""
WAIT_SECONDS = 0.25
"""Time between two chances to react to Ctrl-C while nothing arrives."""
MAX_ANSWER = 2**30
"""Most bytes of one event or answer; a picture of 16 million pixels takes up to 70 MB."""


class Connection:
    """Requests to one server. Its methods raise the errors that the user should see.

    Attributes:
        address: the server.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._streams: deque[Any] = deque(maxlen=4)  # the newest connections; requests run one after another
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        try:
            self._client = httpx2.Client(
                base_url=address.url,
                headers=headers,
                timeout=httpx2.Timeout(ASK_SECONDS, connect=CONNECT_SECONDS, write=WRITE_SECONDS),
                follow_redirects=False,
                event_hooks={"request": [lambda request: request.extensions.setdefault("trace", self.trace)]},
                trust_env=not _is_loopback(address.url),  # a proxy cannot reach this machine's own servers
            )
        except (httpx2.InvalidURL, ValueError) as error:
            raise RequestError(
                f"{address.url} is not an address: {error}", "write it like http://gpu-box:8642"
            ) from None

    def get(self, path: str) -> Any:
        """Return the JSON of an answer.

        Raises:
            Refused: the server answered with an error.
            ServerError, RequestError: see `Connection.send`.
        """
        return self._json(self.send("GET", path))

    def state(self) -> Any:
        """Return the JSON of `/health`, which has an error status while the server is not ready."""
        with self.translated():
            response = self._client.get("/health")
        state = self._json(response)
        return state if isinstance(state, dict) else {}

    def put(self, path: str, content: bytes) -> None:
        """Upload a file. Errors as for `get`."""
        self.send("PUT", path, content=content)

    def delete(self, path: str, seconds: float) -> None:
        """Send DELETE and ignore the answer: it is sent when nothing can be done about a failure."""
        with suppress(httpx2.HTTPError):
            self._client.delete(path, timeout=seconds)

    def send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request and read its whole answer.

        Raises:
            Refused: the server answered with an error.
            ServerError: the server cannot be reached, or does not answer as it should.
            RequestError: the address is not one of such a server.
        """
        with self.translated():
            response = self._client.request(method, path, **options)
        self._require_success(response)
        return response

    def post_in_background(self, path: str, body: dict[str, Any]) -> "Answer":
        """Send JSON without a limit of time, and return its answer, which a thread reads."""
        request = self._client.build_request("POST", path, json=body, timeout=self._patient)
        return Answer(self, self._client, request)

    @property
    def _patient(self) -> httpx2.Timeout:
        return httpx2.Timeout(None, connect=CONNECT_SECONDS, write=WRITE_SECONDS)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def trace(self, name: str, info: dict[str, Any]) -> None:
        """Remember a new connection. The HTTP library calls this at every step of a request."""
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._streams.append(info["return_value"])

    def interrupt(self) -> None:
        """Shut all connections down. Closing them alone would not wake a thread that waits for an answer."""
        while self._streams:
            connected = self._streams.pop().get_extra_info("socket")
            if connected is not None:
                with suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

    def translated(self) -> "_Translated":
        """Return a context that turns errors of the HTTP library into ours."""
        return _Translated(self)

    def lost(self, error: BaseException) -> SenseNovaError:
        """Return the error to show for an error of the HTTP library."""
        url = self.address.url
        hint = GO_ON if self.address.is_local else "check the address, and that the server runs"
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            if isinstance(_root(error), ssl.SSLCertVerificationError):
                hint = "set SSL_CERT_FILE to the certificate of its authority"
                return ServerError(f"the certificate of {url} is not trusted: {_root(error).verify_message}", hint)
            if isinstance(_root(error), ssl.SSLError):
                return ServerError(f"{url} does not speak TLS", "write http:// instead of https://")
            if self.address.is_local:
                return ServerError(f"the server at {url} has ended without removing its note", hint)
            return ServerError(f"the server at {url} cannot be reached: {_reason(error)}", hint)
        if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return RequestError(f"{url} is not an address of a server", "write it like http://gpu-box:8642")
        if isinstance(error, httpx2.TimeoutException):
            return ServerError(f"the server at {url} does not answer", hint)
        if isinstance(error, httpx2.RemoteProtocolError) and "http" in url and "closed" not in str(error).lower():
            return ServerError(f"{url} does not speak HTTP as it should: {_reason(error)}", hint)
        return ServerError(
            f"the connection to {url} was lost: {_reason(error)}", "run it again when the server is back"
        )

    def _require_success(self, response: httpx2.Response) -> None:
        if response.is_redirect:
            target = response.headers.get("location", "another address")
            raise RequestError(f"{self.address.url} redirects to {target}", "use the address of the server itself")
        if response.is_success:
            return
        raise refusal(self.address.url, response.status_code, response.headers.get("retry-after"), response.content)

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise ServerError(
                f"{self.address.url} answers, but it is not a server for these models", "check the address"
            ) from None


class Answer:
    """An answer that a thread reads, so that the caller can react to Ctrl-C while it waits."""

    def __init__(self, connection: Connection, client: httpx2.Client, request: httpx2.Request) -> None:
        self._connection = connection
        self._client = client
        self._request = request
        self._request.extensions["trace"] = self._trace
        self._parts: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._response: httpx2.Response | None = None
        self._closed = self._complete = False
        threading.Thread(target=self._read, name="answer", daemon=True).start()

    def parts(self) -> Iterator[bytes | None]:
        """Yield the bytes of a successful answer as they arrive, and None whenever nothing has arrived for a moment.

        Raises:
            Refused: the server answered with an error.
            ServerError: the server cannot be reached, or the connection was lost.
        """
        while True:
            try:
                part = self._parts.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                yield None
                continue
            if part is None:
                return
            if isinstance(part, BaseException):
                raise part if isinstance(part, SenseNovaError) else self._connection.lost(part)
            yield part

    def close(self) -> None:
        """Close the connection unless the whole answer has arrived. The server notices it, and can stop the work."""
        self._closed = True
        if not self._complete:
            self._connection.interrupt()

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        self._connection.trace(name, info)
        if self._closed and name.endswith(".send_request_headers.started"):
            raise ConnectionAbortedError("the request was cancelled before it was sent")

    def _read(self) -> None:
        try:
            self._response = self._client.send(self._request, stream=True)
            if not self._response.is_success:
                self._response.read()
                self._connection._require_success(self._response)
            for part in self._response.iter_bytes():
                self._parts.put(part)
            self._complete = True
            self._parts.put(None)
        except BaseException as error:
            self._parts.put(error)
        finally:
            if self._response is not None:
                with suppress(Exception):
                    self._response.close()


class Refused(RequestError):
    """An answer of a server that is an error.

    Attributes:
        status: its HTTP status.
        code: its word for programs; empty if it has none.
        retry_after: seconds after which to try again; None if it should not be.
    """

    status = 0
    code = ""
    retry_after: float | None = None


def refusal(url: str, status: int, retry_after: str | None, content: bytes) -> SenseNovaError:
    """Return the error for an answer with an error status. It knows the forms of our server, of vLLM-Omni's, and of
    proxies."""
    message, hint, code = _read_error(content)
    if status in (401, 403) and code != "host_refused":
        return RequestError(
            f"the server at {url} refuses the key" if status == 401 else f"the server at {url} refuses: {message}",
            f"set {KEY_VARIABLE}, or name a file that contains the key: `server_key_file`",
        )
    if code == "out_of_memory" or (status == 500 and "out of memory" in message.lower()):
        return DeviceMemoryError(f"the server at {url}: {message}", hint)
    if status >= 500 and status != 503:
        return ServerError(f"the server at {url}: {message or f'error {status}'}", hint)
    refused = Refused(message or f"the server at {url} answers with error {status}", hint)
    refused.status, refused.code = status, code
    if status == 503:
        refused.retry_after = (
            min(60.0, float(retry_after)) if retry_after is not None and retry_after.isdigit() else 5.0
        )
    return refused


def _read_error(content: bytes) -> tuple[str, str, str]:
    """Return message, hint and code of an error in JSON: `{"error": {…}}`, or FastAPI's `{"detail": …}`."""
    try:
        fields = json.loads(content)
    except ValueError:
        return "", "", ""
    error = fields.get("error", fields.get("detail")) if isinstance(fields, dict) else None
    if isinstance(error, list):
        return "; ".join(str(each.get("msg", each)) if isinstance(each, dict) else str(each) for each in error), "", ""
    if isinstance(error, dict):
        return str(error.get("message", "")), str(error.get("hint") or ""), str(error.get("code") or "")
    return str(error or ""), "", ""


class _Translated:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | OSError):
            raise self._connection.lost(error) from None


def _root(error: BaseException) -> Any:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    root = _root(error)
    return getattr(root, "strerror", None) or str(error) or type(error).__name__


def _is_loopback(url: str) -> bool:
    host = url.partition("://")[2].partition("/")[0]
    return host.startswith(("127.", "localhost", "[::1]"))
