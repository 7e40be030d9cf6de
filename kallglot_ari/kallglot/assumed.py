"""Everything that we assume of Kallglot's API and that no published page states; each is used by the name it has here.

docs/kallglot-api.md has the same list with the places that depend on it. When the API turns out otherwise, change it here.
What is assumed of its behaviour and has no name:

- `sequence` of `audio.input` counts the messages of a stream from 0, whoever speaks; `timestamp_ms` starts with the stream
  (`uplink.RoutingEncoder`);
- `pcm_16` is little-endian signed and `pcm_8` unsigned, as in a WAV file (`calls.model.StreamAudio`);
- before `session.ready`, `session.error` or `session.ended` mean that the stream is refused (`stream.Stream`);
- which reasons of `session.ended` are the end of a conversation, and no fault (`calls.translating.DONE`);
- the provider contract has no `session.ready`: an open socket is ready (`stream.Stream`).
"""

from __future__ import annotations

# --- stream, routing contract: server → client ------------------------------------------------------------------------

ROUTING_SPEECH = "audio.output"
"""A message of translated speech. Its fields mirror `audio.input`: `speaker` (whose speech was translated), `sequence` and
`audio {encoding, sample_rate_hz, payload}`."""

# --- stream, provider contract ----------------------------------------------------------------------------------------

PROVIDER_SPEECH = "audio"
"""A message of translated speech: the client's own field names (`data`, `encoding`, `sample_rate`, `channels`) plus `speaker`."""

PROVIDER_TRANSLATION = "translation"
"""The translation of a transcript segment: `id` (the segment's), `language`, `text`."""

PROVIDER_SPEAKER_FIELD = "speaker"
"""The field by which we tell whose audio a mono `audio` message is; the published message has none for it."""

PROVIDER_LEFT, PROVIDER_RIGHT = "customer", "agent"
"""Who speaks on which side of two-channel audio, in both directions."""

PROVIDER_ERROR = "error"
"""A message about an error: `code`, `message`, at the top or under `error`. The stream goes on."""

PROVIDER_ENDED = "ended"
"""A message that the session has ended: `reason`. Where it does not come, closing with 1000 after our `end` means the same."""

# --- stream, both -----------------------------------------------------------------------------------------------------

NOBODY = ""
"""The speaker of speech that names none: it is nobody's in the call, so every party hears it (an AI agent's answers)."""

# --- REST -------------------------------------------------------------------------------------------------------------

ANONYMOUS = "sip:anonymous@anonymous.invalid"
"""`routing.sip.from_uri` of a caller without a number (RFC 3323 §4.1.1.3)."""

PROBE_SESSION = "sess_00000000000000000000000000"
"""A session that does not exist: asking for it (404) shows that the API answers and takes the key, and costs no credit."""

ALREADY_ENDED_CODES = frozenset({"session_ended", "session_already_ended", "already_ended"})
"""Codes of a 409 or 422 that mean, for `end`, that there is nothing left to do. The published answer is a 200."""
