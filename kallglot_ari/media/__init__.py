"""Sound between Asterisk and Kallglot: one thread wakes every 10 ms and serves all legs at once. docs/media.md has the whole."""
