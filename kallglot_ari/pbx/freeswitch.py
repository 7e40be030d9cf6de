"""FreeSWITCH's side: gateways, a dialplan, and the answers of mod_xml_curl. Pure.

With mod_xml_curl each call asks our server for its dialplan, and gets one with a session made for it: no SESSION_ID to be set
by hand. Without it, the static dialplan bridges to ``${SESSION_ID}``, which something else has to set.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from kallglot_ari.errors import ConfigError
from kallglot_ari.pbx.addresses import ordered, section_name, split_port
from kallglot_ari.pbx.files import RenderedFile, plain
from kallglot_ari.settings import Settings, TrunkSettings, WebSettings

CODECS = {"opus": "OPUS", "G722": "G722", "PCMU": "PCMU", "PCMA": "PCMA"}
STATUS = "KALLGLOT_STATUS"
"""Channel variable of a call that Kallglot's endpoints did not take; in a request of mod_xml_curl it is ``variable_…``."""
_SAFE_ID = re.compile(r"[A-Za-z0-9_.@-]{1,128}")
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NOT_FOUND = (
    _HEAD
    + '<document type="freeswitch/xml">\n  <section name="result">\n    <result status="not found"/>\n'
    + "  </section>\n</document>\n"
)
"""What FreeSWITCH understands as: look into your own files."""


def render(settings: Settings) -> list[RenderedFile]:
    """The files of `config freeswitch`.

    :raises ConfigError: text that its files cannot hold.
    """
    plain("web.token", settings.web.token.get_secret_value(), forbidden=" '\\$")  # stands in api_hangup_hook
    for name, value in (
        ("username", settings.trunk.username),
        ("password", settings.trunk.password.get_secret_value()),
    ):
        if "$${" in value:
            raise ConfigError(
                f"trunk.{name}: expected text without $${{, which FreeSWITCH takes for a variable of its own"
            )
    return [
        RenderedFile("sip_profiles/external/kallglot.xml".replace("/", "-"), gateways(settings.trunk), secret=True),
        RenderedFile("dialplan-kallglot.xml", static_dialplan(settings.trunk)),
        RenderedFile("xml_curl.conf.xml", xml_curl(settings), secret=True),
        RenderedFile("README.txt", README),
    ]


def gateways(trunk: TrunkSettings) -> str:
    """`<include>` for sip_profiles/external/: a gateway for each endpoint."""
    lines = [_HEAD + "<include>"]
    for index, endpoint in enumerate(ordered(trunk)):
        host, port = split_port(endpoint.uri, trunk.transport)
        params = {
            "username": trunk.username,
            "password": trunk.password.get_secret_value(),
            "realm": trunk.domain,
            "from-domain": trunk.domain,
            "proxy": f"{host}:{port}",
            "register": "false",
            "register-transport": trunk.transport,
            "contact-params": f"transport={trunk.transport}",
            "caller-id-in-from": "true",
            "ping": "60",
        }
        lines.append(f"  <gateway name={quoteattr(section_name(index))}>")
        lines += [f"    <param name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in params.items()]
        lines.append("  </gateway>")
    return "\n".join([*lines, "</include>\n"])


def bridge_string(session_id: str, trunk: TrunkSettings) -> str:
    """What `bridge` takes: the gateways in failover order, joined with ``|``, each for the timeout in whole seconds.

    Codecs and SRTP are asked of the leg to Kallglot alone: the caller's own, or one of a later bridge, may have neither.
    """
    leg = {
        "originate_timeout": str(-(-trunk.failover_timeout_ms // 1000)),
        "absolute_codec_string": ",".join(CODECS[codec] for codec in trunk.codecs),
    }
    if trunk.srtp:
        leg["rtp_secure_media_outbound"] = ":".join(["mandatory", *trunk.srtp_suites])
    variables = ",".join(f"{name}='{value}'" for name, value in leg.items())
    parameter = "" if trunk.transport == "udp" else f";transport={trunk.transport}"
    gateways = (f"sofia/gateway/{section_name(index)}/{session_id}{parameter}" for index in range(len(trunk.endpoints)))
    return f"{{{variables}}}{'|'.join(gateways)}"


def _actions(trunk: TrunkSettings, session_id: str, more: list[tuple[str, str]]) -> list[str]:
    """What is done with a call. Only one that no endpoint took gets behind the bridge: it goes through the dialplan once
    more, untranslated; `STATUS` and the empty SESSION_ID say that it shall not come here again."""
    steps = [
        *more, ("set", "hangup_after_bridge=true"), ("set", "continue_on_fail=true"),
        ("bridge", bridge_string(session_id, trunk)),
        ("unset", "hangup_after_bridge"), ("unset", "continue_on_fail"), ("set", "SESSION_ID="),
        ("set", f"{STATUS}=UNAVAILABLE"), ("transfer", "${destination_number} XML ${context}"),
    ]  # fmt: skip
    return [f'<action application="{application}" data={quoteattr(data)}/>' for application, data in steps]


def static_dialplan(trunk: TrunkSettings) -> str:
    """An extension for dialplan/default/: any number, once SESSION_ID is set."""
    actions = "\n".join("      " + line for line in _actions(trunk, "${SESSION_ID}", []))
    return (
        f'{_HEAD}<include>\n  <extension name="translated_call">\n'
        '    <condition field="${SESSION_ID}" expression="^.+$" break="on-false"/>\n'
        '    <condition field="destination_number" expression="^(\\+?\\d+)$">\n'
        f"{actions}\n    </condition>\n  </extension>\n</include>\n"
    )


def dialplan_answer(session_id: str, trunk: TrunkSettings, *, context: str, hangup_hook: str = "") -> str:
    """The document for one call: bridge it to its session. `hangup_hook` is what `api_hangup_hook` shall run."""
    more = [("set", f"SESSION_ID={session_id}")]
    if hangup_hook:
        more.append(("set", f"api_hangup_hook={hangup_hook}"))
    actions = "\n".join("          " + line for line in _actions(trunk, session_id, more))
    return (
        f'{_HEAD}<document type="freeswitch/xml">\n  <section name="dialplan" description="Kallglot">\n'
        f"    <context name={quoteattr(context)}>\n"
        '      <extension name="translated_call">\n        <condition>\n'
        f"{actions}\n        </condition>\n      </extension>\n    </context>\n  </section>\n</document>\n"
    )


def hangup_hook(web: WebSettings, call_id: str) -> str:
    """What `api_hangup_hook` shall run (mod_curl): tell us that the call is over. Empty for an id that it cannot carry."""
    if not _SAFE_ID.fullmatch(call_id):
        return ""
    token = web.token.get_secret_value()
    header = f" append_headers 'Authorization:Bearer {token}'" if token else ""
    return f'curl {web.url()}/pbx/hangup content-type application/json{header} post {{"callId":"{call_id}"}}'


def xml_curl(settings: Settings) -> str:
    """autoload_configs/xml_curl.conf.xml: ask our server for the dialplan."""
    web = settings.web
    token = web.token.get_secret_value()
    login = f'      <param name="gateway-credentials" value={quoteattr("kallglot:" + token)}/>\n' if token else ""
    login += '      <param name="auth-scheme" value="basic"/>\n' if token else ""
    return (
        f'{_HEAD}<configuration name="xml_curl.conf" description="{escape("Dialplan from kallglot-ari")}">\n'
        '  <bindings>\n    <binding name="kallglot">\n'
        f'      <param name="gateway-url" value="{web.url()}/pbx/freeswitch" bindings="dialplan"/>\n'
        f'{login}      <param name="timeout" value="5"/>\n    </binding>\n  </bindings>\n</configuration>\n'
    )


README = """\
sip_profiles-external-kallglot.xml   into sip_profiles/external/kallglot.xml     gateways (holds the password)
xml_curl.conf.xml                    into autoload_configs/xml_curl.conf.xml     dialplan from kallglot-ari (holds the token)
dialplan-kallglot.xml                into dialplan/default/kallglot.xml          only without mod_xml_curl
Owned by the user that FreeSWITCH runs as; the two that hold secrets readable for that user only.

The profile "external" needs tls=true and, to check the certificate, tls-verify-policy=out and tls-version=tlsv1.2.
Load mod_xml_curl and, for the report that a call is over, mod_curl: in autoload_configs/modules.conf.xml, or now:
  fs_cli -x "load mod_curl", -x "load mod_xml_curl", -x reloadxml, -x "sofia profile external rescan"
With mod_xml_curl every call is translated, unless trunk.freeswitch_contexts of kallglot-ari names the contexts that shall be.
A call that no endpoint takes goes through its dialplan once more, untranslated, with KALLGLOT_STATUS=UNAVAILABLE.
"""
