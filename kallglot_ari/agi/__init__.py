"""FastAGI: Asterisk's dialplan asks, we answer. `protocol` is pure, `server` is the shell around it."""
