"""kallglot-ari connects an Asterisk PBX to Kallglot, which translates phone calls live."""

__version__ = "0.1.0"
