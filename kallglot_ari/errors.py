"""Every error of this project, in one tree.

::

    KallglotAriError                  retryable = False unless it says otherwise
     ├─ ConfigError                   a setting is missing, unknown or unusable; the message names it
     ├─ UsageError                    a command-line or API argument is unusable
     ├─ ListenError                   an address or port of ours cannot be had
     ├─ ServiceBusy                   draining, or at service.max_calls             retryable
     ├─ AriError                      Asterisk's REST interface
     │   ├─ AriUnavailable            no connection, or 5xx                        retryable
     │   ├─ AriUnauthorized           401, 403: wrong user or password
     │   ├─ AriNotFound               404: the channel, bridge or playback is gone
     │   ├─ AriConflict               409, 412: it exists but is in another state (often: leaving)
     │   │   └─ AriNotInStasis        409, 422: not, or no longer, in this application
     │   ├─ AriBadRequest             400, other 422: Asterisk did not take an argument
     │   └─ AriUnsupported            this Asterisk is too old for the operation
     ├─ ApiError                      Kallglot's REST interface; has status, code, request_id, retry_after
     │   ├─ ApiUnavailable            no connection, time-out, 5xx                 retryable
     │   ├─ ApiRateLimited            429                                          retryable
     │   ├─ ApiConflict               409: the first request with this key is still running   retryable
     │   ├─ ApiUnauthorized           401, 403
     │   ├─ ApiCreditsExhausted       402: somebody has to pay; never retried
     │   ├─ ApiNotFound               404
     │   └─ ApiInvalid                400, 422; has param
     ├─ AgiError                      FastAGI: what came is not AGI, or what shall go cannot be sent
     │   └─ AgiGone                   the dialplan's connection is closed, or its channel hung up
     ├─ AmiError                      Asterisk's manager interface
     │   ├─ AmiUnavailable            no connection, or no answer in time           retryable
     │   └─ AmiUnauthorized           wrong user or password
     ├─ SipProbeError                 doctor: a SIP endpoint, or the way to it, is not as it should be; has advice
     ├─ StreamError                   the WebSocket to Kallglot
     │   ├─ StreamRefused             the server did not open it (token, session)
     │   └─ StreamClosed              it closed in mid-call                        retryable
     ├─ MediaError                    RTP, codecs, formats
     ├─ StoreError                    the database                                 retryable
     ├─ InterpreterError              a model or engine of the offline interpreter
     └─ LabError                      the lab could not find or make what it needs; says what to install
"""

from __future__ import annotations

import errno
import os


class KallglotAriError(Exception):
    """Root of the tree. `retryable` says whether the same request may succeed later without anybody's help."""

    retryable: bool = False


class ConfigError(KallglotAriError):
    """A setting cannot be used; the message names the setting, what was expected and what was found."""


class UsageError(KallglotAriError):
    """An argument cannot be used; the message names it, what was expected and what was found."""


class ListenError(KallglotAriError):
    """An address that we should listen on cannot be had: taken, or not this machine's. The message names the setting."""


class ServiceBusy(KallglotAriError):
    """The service takes no more calls at the moment: it is draining, or at its limit."""

    retryable = True


def cannot_listen(error: OSError) -> str:
    """Why, in a few words: asyncio puts a sentence of its own where the system's words were."""
    if error.errno == errno.EADDRINUSE:
        return "the port is taken"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def cannot_connect(error: OSError) -> str:
    """Why, in a few words, without the address, which uvloop leaves out and asyncio repeats."""
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or "no answer in time"


def listening_setting(section: str, error: OSError) -> str:
    """What to change where `section` has a `bind` and a `port`: the port when it is taken or not for us, else the address."""
    return f"{section}.port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else f"{section}.bind"


def cannot_listen_at(section: str, bind: str, port: int, error: OSError) -> ListenError:
    """For a server whose `section` has a `bind` and a `port`: what to change, and why."""
    return ListenError(f"{listening_setting(section, error)}: cannot listen on {bind}:{port}: {cannot_listen(error)}")


class AriError(KallglotAriError):
    """Asterisk's REST interface refused or failed. `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0, operation: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.operation = operation


class AriUnavailable(AriError):
    """No connection, a time-out or a 5xx."""

    retryable = True


class AriUnauthorized(AriError):
    """Wrong user or password, or a read-only user."""


class AriNotFound(AriError):
    """The object is gone. On teardown this is success."""


class AriConflict(AriError):
    """The object is in another state, often on its way out. On teardown this is success."""


class AriNotInStasis(AriConflict):
    """The channel is not, or no longer, in this application."""


class AriBadRequest(AriError):
    """Asterisk did not take an argument."""


class AriUnsupported(AriError):
    """This Asterisk is older than the operation; the message names the version that has it."""


class ApiError(KallglotAriError):
    """Kallglot's REST interface refused or failed; branch on `status` and `code`, log `message` and `request_id`."""

    sent: bool = True
    """Whether what was asked for may have been done all the same; False when it never got there, or was put off."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.param = param


class ApiUnavailable(ApiError):
    """No connection, a time-out or a 5xx."""

    retryable = True


class ApiRateLimited(ApiError):
    """429; `retry_after` is in seconds."""

    retryable = True
    sent = False


class ApiConflict(ApiError):
    """409: the first request with this idempotency key is still running."""

    retryable = True


class ApiUnauthorized(ApiError):
    """401 or 403: the key, or what it may do."""


class ApiCreditsExhausted(ApiError):
    """402: no credits; retrying cannot help."""


class ApiNotFound(ApiError):
    """404."""


class ApiInvalid(ApiError):
    """400 or 422; `param` names the field."""


class AgiError(KallglotAriError):
    """FastAGI: the message says what was expected and what was found."""


class AgiGone(AgiError):
    """The dialplan's connection is closed, or its channel has hung up."""


class AmiError(KallglotAriError):
    """Asterisk's manager interface refused an action; the message is Asterisk's."""


class AmiUnavailable(AmiError):
    """No connection, or no answer in time."""

    retryable = True


class AmiUnauthorized(AmiError):
    """Wrong user or password, or an address that manager.conf does not permit."""


class SipProbeError(KallglotAriError):
    """What is wrong with a SIP endpoint or the way to it; `advice` says what to do."""

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(found)
        self.advice = advice


class StreamError(KallglotAriError):
    """The WebSocket that carries a session's audio."""


class StreamRefused(StreamError):
    """The server did not open the stream: token, session or URL."""


class StreamClosed(StreamError):
    """The stream closed while the call was up."""

    retryable = True


class MediaError(KallglotAriError):
    """RTP, codecs or formats."""


class StoreError(KallglotAriError):
    """The database could not be read or written."""

    retryable = True


class InterpreterError(KallglotAriError):
    """An engine or a model of the offline interpreter is missing or broken; the message says which and what to do."""


class LabError(KallglotAriError):
    """The lab cannot have what it needs; the message says what to install or allow."""
