"""From JSON to the generated models: strict where a call depends on it, lenient about everything a release may add or lack.

A field that the model does not know is ignored. A missing or null scalar takes its default; a missing `id`, `type` or object that the
description calls required makes the whole malformed, and so does a value of another type. A time that cannot be read is None.
Nothing here raises anything but `MalformedError`, and `decode_event` not even that.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar, cast

import orjson

from kallglot_ari.ari import models
from kallglot_ari.ari.models import EVENTS, Message

M = TypeVar("M")
_Convert = Callable[[object, str], object]
"""From a JSON value and its place in the document to the model's value."""


class MalformedError(ValueError):
    """JSON that does not fit the model; the message says where, what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class GenericEvent:
    """An event that has no model: of a type not known here, or (`problem` says why) malformed."""

    type: str
    application: str = ""
    raw: dict[str, object] = field(default_factory=dict)
    problem: str = ""


AnyEvent = Message | GenericEvent


def decode_event(frame: str | bytes) -> AnyEvent:
    """Read one frame of the event socket. Never raises: what cannot be read is a `GenericEvent` with a `problem`."""
    try:
        document = _json(frame)
    except MalformedError as error:
        return GenericEvent("", problem=str(error))
    if not isinstance(document, dict):
        return GenericEvent("", problem=f"expected a JSON object, found {_kind(document)}")
    kind, application = document.get("type"), document.get("application")
    application = application if isinstance(application, str) else ""
    if not isinstance(kind, str) or not kind:
        return GenericEvent("", application, document, f"type: expected a string, found {_kind(kind)}")
    model = EVENTS.get(kind)
    if model is None:
        return GenericEvent(kind, application, document)
    try:
        return cast(Message, _object(model)(document, kind))
    except MalformedError as error:
        return GenericEvent(kind, application, document, str(error))


def read_one(model: type[M], answer: bytes) -> M:
    """The body of an answer as a model. :raises MalformedError:"""
    return cast(M, _object(model)(_json(answer), model.__name__))


def read_many(model: type[M], answer: bytes) -> tuple[M, ...]:
    """The body of an answer as models. :raises MalformedError:"""
    convert = _sequence(_object(model))
    return cast(tuple[M, ...], convert(_json(answer), model.__name__))


def _json(text: str | bytes) -> object:
    try:
        return cast(object, orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"expected JSON: {error}") from None


def _kind(value: object) -> str:
    return "nothing" if value is None else "an empty string" if value == "" else type(value).__name__


_converters: dict[object, _Convert] = {}


def _object(model: type) -> _Convert:
    """The converter of a dataclass, put together once from its annotations."""
    if model not in _converters:
        _converters[model] = _build(model)
    return _converters[model]


def _build(model: type) -> _Convert:
    hints = typing.get_type_hints(model, vars(models))
    plan: list[tuple[str, str, _Convert, bool]] = []
    for spec in dataclasses.fields(model):
        needed = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        plan.append((spec.name, spec.name.rstrip("_"), _converter(hints[spec.name]), needed))

    def convert(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise MalformedError(f"{where}: expected an object, found {_kind(value)}")
        given: dict[str, object] = {}
        for name, key, read, needed in plan:
            found = value.get(key)
            if found is not None:
                given[name] = read(found, f"{where}.{key}")
            elif needed:
                raise MalformedError(f"{where}.{key}: expected a value, found nothing")
        return model(**given)

    return convert


def _converter(hint: object) -> _Convert:
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return _sequence(_converter(typing.get_args(hint)[0]))
    if typing.get_origin(hint) is dict:
        return _scalar(dict)
    if hint is object:
        return lambda value, where: value
    if hint is datetime:
        return _time
    if hint is float:
        return _number
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object(hint)
    if isinstance(hint, type):
        return _scalar(hint)
    raise TypeError(f"no converter for {hint!r}")


def _scalar(expected: type) -> _Convert:
    def convert(value: object, where: str) -> object:
        if type(value) is not expected:  # a bool is no int here
            raise MalformedError(f"{where}: expected {expected.__name__}, found {_kind(value)}")
        return value

    return convert


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedError(f"{where}: expected a number, found {_kind(value)}")
    return float(value)


def _time(value: object, where: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _sequence(convert: _Convert) -> _Convert:
    def convert_all(value: object, where: str) -> object:
        if not isinstance(value, list):
            raise MalformedError(f"{where}: expected a list, found {_kind(value)}")
        return tuple(convert(item, f"{where}[{index}]") for index, item in enumerate(value))

    return convert_all
