"""The Asterisks and phones of the other tests."""

from tests.asterisk.conftest import _shared, asterisk, asterisk16, asterisk22, phones

__all__ = ["_shared", "asterisk", "asterisk16", "asterisk22", "phones"]
