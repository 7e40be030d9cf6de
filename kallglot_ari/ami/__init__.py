"""Asterisk's manager interface: `protocol` knows its events (pure), `client` keeps the connection."""
