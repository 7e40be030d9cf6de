"""The embedded Kallglot: a server with its REST interface, streams and webhooks, and an engine behind it."""
