"""The certificate that a server of ours shows."""

from __future__ import annotations

import ssl

from kallglot_ari.errors import ConfigError


def serving(certificate: str, key: str, settings: tuple[str, str]) -> ssl.SSLContext | None:
    """For a server; None without a certificate. `key` may be in it, and empty. :raises ConfigError: `settings` cannot be used."""
    if not certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    named = ", ".join(settings)
    try:
        # an encrypted key would be asked for on the terminal, while the service stands still
        context.load_cert_chain(certificate, key or None, password=lambda: "")
    except ssl.SSLError as error:
        raise ConfigError(
            f"{named}: expected a PEM certificate and its unencrypted key: {error.reason or error}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{named}: {key or certificate} cannot be read: {error.strerror}") from None
    return context
