"""Reads Asterisk's own description of ARI: names, types and `since`. Its prose is left where it is."""

from __future__ import annotations

import base64
import os
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from kallglot_ari.ari.versions import Version, parse_version

RESOURCES = (
    "applications",
    "asterisk",
    "bridges",
    "channels",
    "deviceStates",
    "endpoints",
    "events",
    "mailboxes",
    "playbacks",
    "recordings",
    "sounds",
)
"""The description files; each is one resource."""

_NAMES = {"rtpstatistics": "rtp_statistics", "absorbDTMF": "absorb_dtmf", "sendDTMF": "send_dtmf"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation; `place` is ``path``, ``query`` or ``body``."""

    name: str
    type: str
    place: str
    required: bool
    multiple: bool

    @property
    def python(self) -> str:
        return python_name(self.name)


@dataclass(frozen=True, slots=True)
class Described:
    """An operation as its resource's file describes it."""

    resource: str
    nickname: str
    method: str
    path: str
    returns: str
    since: tuple[Version, ...]
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Property:
    """A field of a model."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model and the one it extends, if any."""

    name: str
    base: str
    properties: tuple[Property, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """A whole ARI."""

    operations: tuple[Described, ...]
    models: tuple[Model, ...]


def python_name(name: str) -> str:
    """``externalMedia`` -> ``external_media``; a keyword gets an underscore behind it."""
    known = _NAMES.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return known + "_" if known in ("from", "import", "class") else known


def load(source: str, *, username: str = "") -> Description:
    """Read the description files from a folder, or from a running Asterisk (`http://HOST:8088`).

    The password for a running one is taken from the environment, ``KALLGLOT__ARI__PASSWORD``.

    :raises OSError: when a file cannot be read. :raises ValueError: when one is not a description.
    """
    read = _fetch if source.startswith(("http://", "https://")) else _read
    documents = {name: read(source, name, username) for name in RESOURCES}
    return parse(documents)


def parse(documents: Mapping[str, bytes]) -> Description:
    """Take apart the files, given by resource. :raises ValueError: when one is not a description."""
    operations: list[Described] = []
    models: dict[str, Model] = {}
    bases: dict[str, str] = {}
    for resource, document in documents.items():
        try:
            described = orjson.loads(document)
            for api in described["apis"]:
                operations += [_operation(resource, api["path"], one) for one in api["operations"]]
            for name, model in described.get("models", {}).items():
                bases.update(dict.fromkeys(model.get("subTypes", ()), name))
                models[name] = Model(name, "", tuple(_property(key, p) for key, p in model["properties"].items()))
        except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
            raise ValueError(f"{resource}.json: expected an ARI description, found {error!r}") from None
    named = (Model(one.name, bases.get(one.name, ""), one.properties) for one in models.values())
    return Description(tuple(one for one in operations if one.method != "WEBSOCKET"), tuple(named))


def _operation(resource: str, path: str, one: Mapping[str, object]) -> Described:
    parameters = one.get("parameters") or []
    since = one.get("since") or []
    assert isinstance(parameters, list)
    assert isinstance(since, list)
    return Described(
        resource,
        str(one["nickname"]),
        "WEBSOCKET" if one.get("upgrade") == "websocket" else str(one["httpMethod"]),
        path,
        str(one["responseClass"]),
        tuple(sorted(parse_version(text) for text in since)),
        tuple(
            Parameter(
                p["name"],
                p["dataType"],
                p["paramType"],
                p["paramType"] == "path" or bool(p.get("required")),
                bool(p.get("allowMultiple")),
            )
            for p in parameters
        ),
    )


def _property(name: str, described: Mapping[str, object]) -> Property:
    return Property(name, str(described["type"]), bool(described.get("required")))


def _read(source: str, name: str, _: str) -> bytes:
    return (Path(source) / f"{name}.json").read_bytes()


def _fetch(source: str, name: str, username: str) -> bytes:
    request = urllib.request.Request(f"{source.rstrip('/')}/ari/api-docs/{name}.json")  # noqa: S310 - http(s) by load()
    credentials = f"{username}:{os.environ.get('KALLGLOT__ARI__PASSWORD', '')}".encode()
    request.add_header("Authorization", "Basic " + base64.b64encode(credentials).decode())
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return bytes(answer.read())
