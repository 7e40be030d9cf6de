"""A strict stand-in for the Kallglot API, written from its documentation and sharing no code with the product."""

from tests.double.server import Fault, KallglotDouble
from tests.double.session import Arrival, DoubleSession, SpeakerAudio

__all__ = ["Arrival", "DoubleSession", "Fault", "KallglotDouble", "SpeakerAudio"]
