"""What every generated operation stands on: its description, and how its answer is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kallglot_ari.ari.decode import MalformedError, read_many, read_one
from kallglot_ari.ari.versions import Version
from kallglot_ari.errors import AriError

M = TypeVar("M")
Param = str | int | bool | Sequence[str] | None
"""A query parameter; None leaves it out, several strings are joined by commas."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of ARI."""

    name: str
    """Resource and Asterisk's own name, as ari-py has it: ``channels.externalMedia``."""
    python: str
    """Where it is here: ``channels.external_media``."""
    method: str
    path: str
    """With `{names}` of the path parameters, from `/ari` on."""
    since: tuple[Version, ...] = ()
    """The first release of each branch that has it."""


class Requests(Protocol):
    """Sends an operation and returns the body of a 2xx answer."""

    async def request(
        self,
        operation: Operation,
        *,
        path: Mapping[str, str],
        query: Mapping[str, Param],
        body: Mapping[str, object] | None,
    ) -> bytes:
        """:raises AriError: the subclass says what went wrong."""
        ...


class Resource:
    """Base of the generated resource classes."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def _bytes(
        self,
        operation: Operation,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Param] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> bytes:
        given = {name: value for name, value in body.items() if value is not None} if body else None
        return await self._requests.request(operation, path=path or {}, query=query or {}, body=given or None)

    async def _none(
        self,
        operation: Operation,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Param] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> None:
        await self._bytes(operation, path=path, query=query, body=body)

    async def _one(
        self,
        model: type[M],
        operation: Operation,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Param] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> M:
        answer = await self._bytes(operation, path=path, query=query, body=body)
        try:
            return read_one(model, answer)
        except MalformedError as error:
            raise _unreadable(operation, error) from None

    async def _many(
        self,
        model: type[M],
        operation: Operation,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Param] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> tuple[M, ...]:
        answer = await self._bytes(operation, path=path, query=query, body=body)
        try:
            return read_many(model, answer)
        except MalformedError as error:
            raise _unreadable(operation, error) from None


def _unreadable(operation: Operation, error: MalformedError) -> AriError:
    return AriError(
        f"{operation.name}: Asterisk's answer is not what its description says: {error}",
        status=200,
        operation=operation.name,
    )
