"""What can be set. Order: built-in default < TOML file < environment (``KALLGLOT__SECTION__KEY``).

Every section is frozen, and each part of the service receives only its own. Secrets are `SecretStr`: neither `repr` nor an
error shows them. Each `*_file` key names a file whose content is the secret (systemd credentials, docker secrets).
"""

from kallglot_ari.settings.kinds import LANGUAGE_PATTERN, MODES, Section, host_port, reached_at
from kallglot_ari.settings.loading import find_file, load
from kallglot_ari.settings.sections import (
    SECTIONS,
    AgiSettings,
    AmiSettings,
    AriSettings,
    ConferenceSettings,
    DebugSettings,
    FeatureSettings,
    InterpreterSettings,
    KallglotSettings,
    LogSettings,
    MediaSettings,
    ServiceSettings,
    Settings,
    StoreSettings,
    WebSettings,
)
from kallglot_ari.settings.trunk import Endpoint, TrunkSettings
from kallglot_ari.settings.words import PATTERNS

__all__ = [
    "LANGUAGE_PATTERN",
    "MODES",
    "PATTERNS",
    "SECTIONS",
    "AgiSettings",
    "AmiSettings",
    "AriSettings",
    "ConferenceSettings",
    "DebugSettings",
    "Endpoint",
    "FeatureSettings",
    "InterpreterSettings",
    "KallglotSettings",
    "LogSettings",
    "MediaSettings",
    "Section",
    "ServiceSettings",
    "Settings",
    "StoreSettings",
    "TrunkSettings",
    "WebSettings",
    "find_file",
    "host_port",
    "load",
    "reached_at",
]
