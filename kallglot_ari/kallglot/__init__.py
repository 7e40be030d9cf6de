"""Kallglot's API: sessions over REST, audio over a WebSocket, webhooks. docs/kallglot-api.md says what is assumed of it."""
