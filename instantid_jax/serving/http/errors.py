"""Errors in the shape that OpenAI's clients expect, and the status of each exception."""

import logging
import math
from typing import Any

from instantid_jax.errors import InputError
from instantid_jax.face.analysis import NoFaceError
from instantid_jax.pipeline.observer import Canceled
from instantid_jax.serving.job import ClosedError, DeadlineError, QueueFullError

logger = logging.getLogger(__name__)

AUTHENTICATE = {"WWW-Authenticate": 'Bearer realm="instantid", Basic realm="instantid"'}


class FieldError(InputError):
    """A field of a request that cannot be used.

    Attributes:
      param: its name; None if several are concerned.
      code: OpenAI's `code`.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param = param
        self.code = code


class ServiceError(Exception):
    """A request that is not served, for another reason than its fields.

    Attributes:
      status: the answer's.
      retry_after: in seconds, when the same request may be served; None if that is not known.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        headers = dict(AUTHENTICATE) if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def service_error(error: BaseException) -> ServiceError:
    """The answer to an exception; logs those that are bugs."""
    match error:
        case ServiceError():
            return error
        case FieldError():
            return ServiceError(400, str(error), param=error.param, code=error.code)
        case NoFaceError():
            return ServiceError(400, str(error), code="no_face")
        case InputError():
            return ServiceError(400, str(error))
        case QueueFullError():
            return ServiceError(503, str(error), retry_after=error.retry_after, code="queue_full")
        case ClosedError():
            return ServiceError(503, "the server is shutting down", retry_after=10)
        case DeadlineError():
            return ServiceError(504, "the images were not finished in time", code="timeout")
        case Canceled():
            return ServiceError(409, "the request was canceled", code="canceled")
        case RuntimeError() if str(error).startswith("RESOURCE_EXHAUSTED"):
            logger.error("the device's memory is full: %s", str(error).splitlines()[0])
            return ServiceError(
                503, "the device's memory is full: ask for smaller images, or fewer at a time"
            )
    logger.error("a request failed", exc_info=error)
    return ServiceError(500, "internal error; the server's log has the details")
