"""The tables, as the newest schema version has them; `migrations` makes them, and a test compares the two.

Times are Unix seconds. JSON is kept as text: both databases give back exactly what was written. All names begin with
``kallglot_`` because a PostgreSQL database is often shared.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text

metadata = MetaData()

schema_version = Table(
    "kallglot_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Double, nullable=False),
)

calls = Table(
    "kallglot_calls",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("view", Text, nullable=False),
    Index("kallglot_calls_started", "started_at"),
    Index("kallglot_calls_state", "state", "started_at"),
    Index("kallglot_calls_session", "session_id"),
)

turns = Table(
    "kallglot_turns",
    metadata,
    Column("n", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("turn", Text, nullable=False),
    Index("kallglot_turns_once", "call_id", "fingerprint", unique=True),
)

pending = Table(
    "kallglot_pending_sessions",
    metadata,
    Column("key", Text, primary_key=True),
    Column("call_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("request", Text),
    Column("reason", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
)

mappings = Table(
    "kallglot_mappings",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("expires_at", Double),
    Index("kallglot_mappings_expiry", "kind", "expires_at"),
)

seen_events = Table(
    "kallglot_seen_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Index("kallglot_seen_events_at", "at"),
)
