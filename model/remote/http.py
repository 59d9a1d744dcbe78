"""Requests over HTTP. A thread reads each answer, so that the caller can react to Ctrl-C while it waits."""

import json
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import httpx2

from config.errors import SenseNovaError
from model.errors import RequestError
from model.remote.address import Address, is_loopback
from model.remote.failures import CHECK, KEY_HINT, DamagedAnswerError, LostConnectionError, lost, refusal

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 120.0
ASK_SECONDS = 15.0
"""Time for a whole answer that needs no model."""
FETCH_SECONDS = 300.0
"""Time for uploading or fetching pictures."""
WAIT_SECONDS = 0.1
"""Time between two chances to react to Ctrl-C while nothing arrives."""
MAX_SHORT_ANSWER = 2**24
"""Most bytes of an answer without pictures."""
MAX_ANSWER = 2**30
"""Most bytes of one event or answer; a picture of 16 million pixels takes up to 70 MB."""
MAX_UNREAD = 256
"""Most parts of an answer that wait for the caller. Then the thread stops reading, so that the server notices."""


class Connection:
    """Requests to one server. Its methods raise the errors that the user should see.

    Attributes:
        address: the server.
    """

    def __init__(self, address: Address) -> None:
        """Prepare requests; nothing is sent.

        Raises:
            RequestError: the address is not one of a server.
        """
        _require_address(address.url)
        self.address = address
        self._streams: deque[Any] = deque(maxlen=4)  # the newest connections; requests run one after another
        headers = {"Accept-Encoding": "identity"}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}"
        self._client = httpx2.Client(
            base_url=address.url,
            headers=headers,
            timeout=None,
            follow_redirects=False,
            verify=address.url.startswith("https:"),  # reading all certificates takes 0.1 s
            mounts=_direct_mounts(address.url),
            # Preparing for the environment's proxies takes another 0.1 s. With TLS, SSL_CERT_FILE is needed.
            trust_env=address.url.startswith("https:") or not is_loopback(httpx2.URL(address.url).host),
        )

    def get(self, path: str) -> Any:
        """Return the JSON of an answer without pictures.

        Raises:
            Refused: the server answered that the request is wrong.
            Unavailable: the server answered that it cannot run the request now.
            ServerError: the server cannot be reached, or does not answer as it should.
            RequestError: the address or the key is wrong.
        """
        return self._json(_last(self.ask("GET", path)))

    def state(self) -> Mapping[str, Any]:
        """Return the JSON of `/health`, which has an error status while the server is not ready.

        Raises:
            SenseNovaError: as for `get`.
        """
        answer = Answer(
            self, self._client.build_request("GET", "/health", timeout=_timeout(ASK_SECONDS)), any_status=True
        )
        state = self._json(_last(self._collect(answer, ASK_SECONDS, MAX_SHORT_ANSWER)))
        return state if isinstance(state, dict) else {}

    def ask(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        seconds: float | None = None,
        most: int = MAX_SHORT_ANSWER,
    ) -> Generator[None, None, bytes]:
        """Send a request, yield None whenever nothing has arrived for a moment, and return the answer.

        Args:
            content: the body.
            seconds: time for the whole answer; None for `ASK_SECONDS`.
            most: most bytes of the answer.

        Raises:
            SenseNovaError: as for `get`.
        """
        seconds = seconds or ASK_SECONDS
        request = self._client.build_request(method, path, content=content, timeout=_timeout(seconds))
        return (yield from self._collect(Answer(self, request), seconds, most))

    def ask_json(
        self, path: str, *, seconds: float | None = None, most: int = MAX_SHORT_ANSWER
    ) -> Generator[None, None, Any]:
        """Do the same as `ask` with GET, and return the answer's JSON."""
        return self._json((yield from self.ask("GET", path, seconds=seconds, most=most)))

    def delete(self, path: str, seconds: float) -> None:
        """Send DELETE and ignore the answer and all errors: the caller could not react to them."""
        with suppress(SenseNovaError):
            _last(self.ask("DELETE", path, seconds=seconds))

    def post_in_background(self, path: str, body: Mapping[str, Any], silence: float | None = None) -> "Answer":
        """Send JSON, and return its answer, which a thread reads.

        Args:
            silence: longest time without a byte of the answer; None for no limit.
        """
        return Answer(self, self._client.build_request("POST", path, json=body, timeout=_timeout(silence)))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
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

    def failure(self, response: httpx2.Response, content: bytes) -> SenseNovaError:
        """Return the error of an answer with an error status; see `refusal`."""
        if response.is_redirect:
            target = response.headers.get("location", "another address")
            return RequestError(f"{self.address.url} redirects to {target}", "use the address of the server itself")
        after = response.headers.get("retry-after")
        has_key = self.address.key is not None
        return refusal(self.address.url, response.status_code, after, content, has_key=has_key)

    def _collect(self, answer: "Answer", seconds: float, most: int) -> Generator[None, None, bytes]:
        """Yield None while waiting, and return the whole answer, within limits of time and size."""
        end = time.monotonic() + seconds
        received = bytearray()
        with closing(answer):
            for part in answer.parts():
                if part is None:
                    yield None
                else:
                    received += part
                if len(received) > most:
                    raise DamagedAnswerError(f"{self.address.url} sends too much", CHECK)
                if time.monotonic() > end:
                    raise LostConnectionError(f"the server at {self.address.url} does not answer", CHECK)
        return bytes(received)

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise DamagedAnswerError(
                f"{self.address.url} answers, but it is not a server for these models", CHECK
            ) from None


class Answer:
    """An answer that a thread reads."""

    def __init__(self, connection: Connection, request: httpx2.Request, *, any_status: bool = False) -> None:
        """Send a request.

        Args:
            any_status: accept an answer with an error status.
        """
        self._connection = connection
        self._request = request
        self._any_status = any_status
        self._parts: queue.Queue[bytes | BaseException | None] = queue.Queue(MAX_UNREAD)
        self._headers: Mapping[str, str] = {}
        self._closed = self._complete = self._is_read = False
        request.extensions["trace"] = self._trace
        threading.Thread(target=self._read, name="answer", daemon=True).start()

    def parts(self) -> Iterator[bytes | None]:
        """Yield the bytes of a successful answer as they arrive, and None whenever nothing has arrived for a moment.

        Raises:
            SenseNovaError: as for `Connection.get`.
        """
        while not self._is_read:
            try:
                part = self._parts.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                yield None
                continue
            self._is_read = part is None or isinstance(part, BaseException)
            if part is None:
                return
            if isinstance(part, BaseException):
                raise part if isinstance(part, SenseNovaError) else lost(self._connection.address, part)
            yield part

    def header(self, name: str) -> str:
        """Return a header of the answer; empty if it is missing, or before the answer begins."""
        return self._headers.get(name, "")

    def close(self) -> None:
        """Close the connection, unless the whole answer has arrived. The server notices it, and can stop the work."""
        self._closed = True
        if not self._complete:
            self._connection.interrupt()

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        self._connection.trace(name, info)
        if self._closed and name.endswith(".send_request_headers.started"):
            raise ConnectionAbortedError("the request was cancelled before it was sent")

    def _read(self) -> None:
        response: httpx2.Response | None = None
        try:
            response = self._connection._client.send(self._request, stream=True)
            self._headers = response.headers
            if not self._any_status and not response.is_success:
                self._raise_failure(response)
            for part in response.iter_bytes():
                self._put(part)
                if self._closed:
                    return
            self._complete = True
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            if response is not None:
                with suppress(Exception):
                    response.close()

    def _raise_failure(self, response: httpx2.Response) -> None:
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > MAX_SHORT_ANSWER or self._closed:
                break
        self._complete = True
        raise self._connection.failure(response, bytes(content))

    def _put(self, part: bytes | BaseException | None) -> None:
        while not self._closed:
            with suppress(queue.Full):
                self._parts.put(part, timeout=WAIT_SECONDS)
                return


def _last(waiting: Generator[None, None, bytes]) -> bytes:
    """Wait for the end of a generator, and return its result."""
    while True:
        try:
            next(waiting)
        except StopIteration as end:
            content: bytes = end.value
            return content


def _require_address(url: str) -> None:
    try:
        parsed = httpx2.URL(url)
        port = parsed.port or 0
    except (httpx2.InvalidURL, ValueError) as error:
        raise RequestError(f"{url} is not an address: {error}", "write it like http://gpu-box:8642") from None
    if parsed.userinfo:
        raise RequestError("the address of the server contains a name or a password", f"leave it out; {KEY_HINT}")
    if not parsed.host or not 0 <= port < 2**16:
        raise RequestError(f"{url} is not an address: its port is {port}", "write it like http://gpu-box:8642")


def _timeout(silence: float | None) -> httpx2.Timeout:
    return httpx2.Timeout(silence, connect=CONNECT_SECONDS, write=WRITE_SECONDS)


def _direct_mounts(url: str) -> dict[str, Any]:
    """Return the rule that requests to this machine bypass the environment's proxies; empty for other hosts."""
    host = httpx2.URL(url).host
    return {f"all://{f'[{host}]' if ':' in host else host}": None} if is_loopback(host) else {}
