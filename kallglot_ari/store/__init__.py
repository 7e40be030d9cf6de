"""What outlives the process: calls and their transcripts, the outbox of sessions still to end, mappings, seen webhooks."""

from kallglot_ari.store.store import Store, open_store

__all__ = ["Store", "open_store"]
