"""Errors as HTTP answers, in the form that OpenAI's clients understand."""

from typing import Any

from config.errors import SenseNovaError, SettingsError
from config.mentions import respell
from model import CheckpointError, DeviceMemoryError, RequestError, WireError
from sensenova_cli.errors import UsageError

MAX_MESSAGE = 1000
"""Maximum number of characters of a message, which may quote names that the client chose."""
RETRY_SECONDS = 5
"""Value of the header `Retry-After` of an answer 503."""


class ApiError(Exception):
    """An error with an HTTP status.

    Attributes:
        status: HTTP status, 400 or more.
        message: a sentence that names the problem.
        code: a word for programs, such as `queue_full`.
        param: the field of the request that caused it; None if there is none.
        hint: the next step for the client; may be empty.
        headers: headers of the answer.
        is_logged: whether the log has a line about it.
    """

    is_logged = False

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request",
        *,
        param: str | None = None,
        hint: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.hint = hint
        self.headers = headers or {}

    @property
    def message_and_hint(self) -> str:
        """The message with the hint, for clients that show one text only."""
        message = self.message[:MAX_MESSAGE]
        return f"{message}; {self.hint}" if self.hint else message

    def json(self, *, hint_in_message: bool = False) -> dict[str, Any]:
        """Return the body of the answer.

        Args:
            hint_in_message: append the hint to the message, and leave the field `hint` empty.
        """
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        message = self.message_and_hint if hint_in_message else self.message[:MAX_MESSAGE]
        param = self.param and self.param[:MAX_MESSAGE]
        hint = "" if hint_in_message else self.hint
        error = {"message": message, "type": kind, "code": self.code, "param": param, "hint": hint}
        return {"error": {**error, "status": self.status}}


def bad_request(message: str, hint: str = "", *, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """Return an error about the content of a request."""
    return ApiError(400, message, code, param=param, hint=hint)


def unavailable(message: str, code: str, hint: str = "") -> ApiError:
    """Return an error of a temporary condition: the client should try again later."""
    return ApiError(503, message, code, hint=hint, headers={"Retry-After": str(RETRY_SECONDS)})


def api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Return the answer to an error of any kind.

    The answer to an unexpected error contains only its type: the cause is for the operator.
    """
    if isinstance(error, ApiError):
        return error
    no_retry = {"x-should-retry": "false"}  # OpenAI's clients would send a request again after a 500
    if isinstance(error, DeviceMemoryError):
        message, hint = as_fields(error.what), "ask for a smaller picture or fewer tokens"
        return ApiError(500, message, "out_of_memory", param=param, hint=hint, headers=no_retry)
    if isinstance(error, MemoryError):
        return ApiError(500, "not enough memory", "out_of_memory", param=param, headers=no_retry)
    if isinstance(error, SettingsError | RequestError | WireError | UsageError):
        return bad_request(as_fields(error.what), as_fields(error.hint), param=param)
    if isinstance(error, CheckpointError):
        what, hint = "the files of the model or of the LoRA cannot be used", "the server's log says why"
        return ApiError(500, what, "model_error", hint=hint, headers=no_retry)
    if isinstance(error, SenseNovaError):
        return ApiError(500, as_fields(error.what), "failed", hint=as_fields(error.hint), headers=no_retry)
    return ApiError(500, f"unexpected {type(error).__name__}", "unexpected", headers=no_retry)


def as_fields(text: str) -> str:
    """Spell the settings in a message as JSON fields: `num_steps=20` → "num_steps": 20."""
    return respell(text, lambda name, value: f'"{name}"' if value is None else f'"{name}": {value}')
