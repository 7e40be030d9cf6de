"""The tree drawn in the docstring is the tree of the classes, and says which errors are worth another try."""

from __future__ import annotations

import inspect
import re

import pytest

from kallglot_ari import errors
from kallglot_ari.errors import ApiError, ApiRateLimited, AriError, AriNotFound, KallglotAriError

LINE = re.compile(r"^    (?P<branch>[ │├└─]*)(?P<name>[A-Z]\w+)\b(?P<rest>.*)$")


def drawn() -> dict[str, tuple[str | None, bool]]:
    """Class → parent and whether it is said to be retryable, from the drawing."""
    found: dict[str, tuple[str | None, bool]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if not (match := LINE.match(line)):
            continue
        depth, name = len(match["branch"]), match["name"]
        above = [(d, n) for d, n in above if d < depth]
        found[name] = (above[-1][1] if above else None, match["rest"].rstrip().endswith(" retryable"))
        above.append((depth, name))
    return found


CLASSES: dict[str, type[KallglotAriError]] = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, KallglotAriError) and value.__module__ == errors.__name__
}


def test_the_drawing_has_every_class_under_its_parent() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == {
        name: None if value is KallglotAriError else value.__bases__[0].__name__ for name, value in CLASSES.items()
    }


def test_the_drawing_says_what_may_be_tried_again() -> None:
    assert {name for name, (_, retryable) in drawn().items() if retryable} == {
        name for name, value in CLASSES.items() if value.retryable
    }


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_is_of_the_tree_carries_its_message_and_says_what_it_is(name: str) -> None:
    error = CLASSES[name]("expected a, found b")
    assert isinstance(error, KallglotAriError)
    assert str(error) == "expected a, found b"
    assert CLASSES[name].__doc__


def test_no_other_exception_is_defined_there() -> None:
    found = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BaseException)]
    assert set(found) == set(CLASSES.values())


def test_what_errors_of_asterisk_and_kallglot_carry() -> None:
    ari = AriNotFound("no channel", status=404, operation="DELETE /channels/{id}")
    assert (ari.status, ari.operation) == (404, "DELETE /channels/{id}")
    assert (AriError("x").status, AriError("x").operation) == (0, "")
    api = ApiRateLimited("slow down", status=429, code="rate_limit_exceeded", request_id="r", retry_after=2.5)
    assert (api.status, api.code, api.request_id, api.retry_after, api.param) == (
        429,
        "rate_limit_exceeded",
        "r",
        2.5,
        None,
    )
    assert (ApiError("x").status, ApiError("x").retry_after) == (0, None)
