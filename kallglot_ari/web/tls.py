"""TLS of the web server and of the commands that ask it."""

from __future__ import annotations

import ssl

from kallglot_ari import certificates
from kallglot_ari.errors import ConfigError
from kallglot_ari.settings import WebSettings


def serving(settings: WebSettings) -> ssl.SSLContext | None:
    """For the server; None for plain HTTP. :raises ConfigError: certificate or key cannot be used."""
    return certificates.serving(settings.tls_certificate, settings.tls_key, ("web.tls_certificate", "web.tls_key"))


def asking(settings: WebSettings) -> ssl.SSLContext | bool:
    """For a command on the same machine: it knows the certificate, whatever name is in it. :raises ConfigError:"""
    if not settings.tls_certificate:
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # the certificate may be signed by a CA that is not in the file: then it itself is what is trusted
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.tls_certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"web.tls_certificate: {settings.tls_certificate} cannot be used: {error.strerror}") from None
    return context
