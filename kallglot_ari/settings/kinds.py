"""Kinds of values that settings take: addresses, URLs, languages, and the frozen section they stand in."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)
from pydantic.fields import FieldInfo

Port = Annotated[int, Field(ge=0, le=65535)]
Mode = Literal["bidirectional_translation", "assistive_translation", "ai_agent", "help_chat_voice"]
MODES: tuple[str, ...] = ("bidirectional_translation", "assistive_translation", "ai_agent", "help_chat_voice")
LANGUAGE_PATTERN = r"^(auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)$"
DIAL_STRING_PATTERN = r"[A-Za-z][A-Za-z0-9_]{0,31}/[A-Za-z0-9_.+*#@:;=/%~\-\[\]]{1,255}"
"""The rule of calls/names.py, which stands above this."""
Language = Annotated[str, Field(pattern=LANGUAGE_PATTERN)]


def off_or_db(value: Any) -> Any:
    return None if value in ("off", "", None) else value


GainDb = Annotated[Annotated[float, Field(ge=-60, le=6)] | None, BeforeValidator(off_or_db)]


def valid_host(value: str) -> str:
    """An IP address, taken without the brackets that IPv6 has in a URL, or a host name."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        # A host name's last label is no number (RFC 3696 §2): 256.1.1.1 is a slip, not a name.
        if not re.fullmatch(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\.?$)[A-Za-z0-9_-]{1,63}\.?", bare):
            raise ValueError("expected an IP address or a host name") from None
    return bare


def valid_address(value: str) -> str:
    bare = value.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError("expected an IPv4 or IPv6 address") from None
    return bare


def ip_version(host: str) -> int | None:
    """4 or 6; None where it is no address but a name, or nothing."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def valid_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for item in value:
        try:
            ipaddress.ip_network(item, strict=False)
        except ValueError:
            raise ValueError(f"expected IP addresses or networks, found {item!r}") from None
    return value


def valid_dial_string(value: str) -> str:
    if value and not re.fullmatch(DIAL_STRING_PATTERN, value):
        raise ValueError(f"expected one dial string such as PJSIP/1001, found {value!r}")
    return value


Host = Annotated[str, AfterValidator(valid_host)]
Address = Annotated[str, AfterValidator(valid_address)]
DialString = Annotated[str, AfterValidator(valid_dial_string)]
SrtpSuite = Literal[
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_192_CM_HMAC_SHA1_80",
    "AES_192_CM_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AES_256_CM_HMAC_SHA1_32",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
    "F8_128_HMAC_SHA1_80",
]
"""RFC 4568 §6.2, RFC 6188 §4 and RFC 7714 §14.2."""


def host_port(host: str, port: int) -> str:
    """As URLs and Asterisk take an address: an IPv6 one in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached_at(bind: str, port: int) -> str:
    """Where this machine reaches a server that listens at `bind`: on the loopback address when that is every address."""
    return host_port({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind), port)  # noqa: S104 - compared, not bound


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def without_credentials(url: str) -> str:
    """A URL, or several, as it may be shown: all before the last `@` is hidden, for a password may hold anything."""
    return re.sub(r"://.*@", "://[hidden]@", url, flags=re.DOTALL)


def valid_url(value: str, schemes: tuple[str, ...], *, base: bool = True) -> str:
    """`base`: paths are put behind it. :raises ValueError: what is wrong with it."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(f"expected a URL, found {without_credentials(repr(value))}") from None
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"expected a URL that begins with {' or '.join(s + '://' for s in schemes)}")
    if "@" in value:  # wherever: a password with a slash in it ends what is taken for the host
        raise ValueError("expected no user or password in the URL; they have settings of their own")
    if base and (parts.query or parts.fragment or value.endswith(("?", "#"))):
        raise ValueError("expected a URL without a query (?…) or a fragment (#…)")
    return value.rstrip("/") if base else value


class Section(BaseModel):
    """A frozen section; a key it does not know is an error."""

    # Strict: `port = true` and `max_calls = "3"` are slips. What the environment holds as text, `_env_value` gives its type.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str) and any(ord(c) < 0x20 or ord(c) == 0x7F for c in text):
            raise ValueError("expected text without line ends and other control characters")
        return value


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret, or may hold one."""
    return isinstance(field.default, SecretStr) or field.repr is False
