"""The web server: API, dashboard, PBX routes, webhooks, health and metrics."""

from kallglot_ari.web.server import WebServer

__all__ = ["WebServer"]
