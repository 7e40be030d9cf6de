"""FreeSWITCH and CUCM ask in their own words, and are answered in them."""

from __future__ import annotations

import asyncio
from xml.etree import ElementTree

import pytest

from kallglot_ari.errors import ApiUnavailable, UsageError
from kallglot_ari.pbx import curri
from tests.modes.pbx_lab import Lab

pytestmark = pytest.mark.real_time

FORM = {
    "section": "dialplan", "Unique-ID": "5f2a-1", "Hunt-Context": "public", "Caller-Caller-ID-Number": "4930123",
    "Hunt-Destination-Number": "800", "variable_kallglot_source": "de",
}  # fmt: skip


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_freeswitch() -> None:
    lab = Lab(token="s3cret-token")
    text = await lab.pbx.freeswitch_dialplan(FORM)
    root = ElementTree.fromstring(text)
    context = root.find("section/context")
    assert context is not None
    assert context.get("name") == "public"
    actions = [(a.get("application"), a.get("data")) for a in root.iter("action")]
    bridge = next(data for application, data in actions if application == "bridge")
    assert bridge == (
        "{originate_timeout='3',absolute_codec_string='OPUS,G722,PCMU,PCMA',"
        "rtp_secure_media_outbound='mandatory:AES_CM_128_HMAC_SHA1_80'}"
        "sofia/gateway/kallglot/sess_1;transport=tls|sofia/gateway/kallglot-2/sess_1;transport=tls"
    )
    assert actions[-1] == ("transfer", "${destination_number} XML ${context}"), "what no endpoint took goes on"
    assert ("set", "SESSION_ID=sess_1") in actions
    hook = next(data for _, data in actions if data and data.startswith("api_hangup_hook="))
    assert hook.endswith('append_headers \'Authorization:Bearer s3cret-token\' post {"callId":"5f2a-1"}')
    assert await lab.pbx.freeswitch_dialplan(FORM) == text
    assert lab.api.requests[0].source_language == "de"
    assert await lab.pbx.hangup("5f2a-1")
    assert 'status="not found"' in await lab.pbx.freeswitch_dialplan(FORM)


async def test_a_call_that_no_endpoint_took_goes_on_in_freeswitch(lab: Lab) -> None:
    await lab.pbx.freeswitch_dialplan(FORM)
    again = {**FORM, "variable_SESSION_ID": "", "variable_KALLGLOT_STATUS": "UNAVAILABLE"}
    for _ in range(2):
        assert 'status="not found"' in await lab.pbx.freeswitch_dialplan(again)
    assert lab.api.ended == [("sess_1", "error")], "nobody pays for it"
    assert not await lab.pbx.hangup(FORM["Unique-ID"]), "the hangup hook comes all the same"
    await lab.pbx.freeswitch_dialplan({**FORM, "Unique-ID": "5f2a-2"})
    lab.store.fail = True
    assert 'status="not found"' in await lab.pbx.freeswitch_dialplan({**again, "Unique-ID": "5f2a-2"})


async def test_freeswitch_asks_only_for_the_contexts_that_are_translated() -> None:
    lab = Lab(freeswitch_contexts=("kallglot",))
    assert 'status="not found"' in await lab.pbx.freeswitch_dialplan(FORM)
    assert not lab.api.created
    assert "sess_1" in await lab.pbx.freeswitch_dialplan({**FORM, "Hunt-Context": "kallglot"})


@pytest.mark.parametrize("form", [{}, {"section": "directory", "Unique-ID": "x"}, {"section": "dialplan"}])
async def test_freeswitch_asks_for_something_else(lab: Lab, form: dict[str, str]) -> None:
    assert 'status="not found"' in await lab.pbx.freeswitch_dialplan(form)
    assert not lab.api.created


async def test_freeswitch_without_an_api_uses_its_own_files(lab: Lab) -> None:
    lab.api.create_error = ApiUnavailable("down")
    assert 'status="not found"' in await lab.pbx.freeswitch_dialplan(FORM)


CURRI = (
    '<?xml version="1.0" encoding="UTF-8"?><Request xmlns="urn:oasis:names:tc:xacml:2.0:context:schema:os"><Subject>'
    '<Attribute AttributeId="urn:Cisco:uc:1.0:callingnumber"><AttributeValue>100</AttributeValue></Attribute>'
    '<Attribute AttributeId="urn:Cisco:uc:1.0:callednumber"><AttributeValue>{}</AttributeValue></Attribute>'
    "</Subject></Request>"
)


PUBLISHED = (
    '<?xml version="1.0" encoding="UTF-8"?><request xmlns="urn:oasis:names:tc:xacml:2.0:context:schema:os">'
    '<subject subjectcategory="urn:oasis:names:tc:xacml:1.0:subject-category:access-subject">'
    '<attribute attributeid="urn:oasis:names:tc:xacml:1.0:subject:role-id"'
    ' datatype="http://www.w3.org/2001/XMLSchema#string" issuer="requestor">'
    "<attributevalue>CISCO:UC:UCMPolicy</attributevalue></attribute>"
    '<attribute attributeid="urn:Cisco:uc:1.0:callingnumber"><attributevalue>9725550101</attributevalue></attribute>;'
    '<attribute attributeid="urn:Cisco:uc:1.0:callednumber"><attributevalue>50102</attributevalue></attribute>'
    '<attribute attributeid="urn:Cisco:uc:1.0:transformedcgpn"><attributevalue>+19725550101</attributevalue></attribute>'
    '<attribute attributeid="urn:Cisco:uc:1.0:transformedcdpn"><attributevalue>+19725550102</attributevalue></attribute>'
    "</subject><resource>"
    '<attribute attributeid="urn:oasis:names:tc:xacml:1.0:resource:resource-id">'
    "<attributevalue>CISCO:UC:VoiceOrVideoCall</attributevalue></attribute></resource><action>"
    '<attribute attributeid="urn:oasis:names:tc:xacml:1.0:action:action-id">'
    "<attributevalue>any</attributevalue></attribute></action><environment>"
    '<attribute attributeid="urn:Cisco:uc:1.0:triggerpointtype"><attributevalue>translationpattern</attributevalue>'
    "</attribute></environment></request>"
)
"""As Cisco's developer guide has it: everything in lower case, a stray semicolon, no call id."""


async def test_cucm_as_published(lab: Lab) -> None:
    assert "sip:sess_1@sip.kallglot.com" in await lab.pbx.cucm_curri(PUBLISHED)
    assert lab.api.requests[0].metadata["caller_id"] == "9725550101"
    (view,) = lab.pbx.calls()
    assert view.caller == "9725550101"


async def test_cucm(lab: Lab) -> None:
    text = await lab.pbx.cucm_curri(CURRI.format("800").encode())
    root = ElementTree.fromstring(text)
    assert root.findtext("Result/Decision") == "Permit"
    inner = ElementTree.fromstring(root.findtext(".//AttributeValue") or "")
    assert inner.findtext("divert/destination") == "sip:sess_1@sip.kallglot.com"
    assert "continue" in await lab.pbx.cucm_curri(CURRI.format("sess_1@sip.kallglot.com"))
    assert len(lab.api.created) == 1
    lab.api.create_error = ApiUnavailable("down")
    assert "continue" in await lab.pbx.cucm_curri(CURRI.format("800"))
    with pytest.raises(UsageError, match="CURRI request: expected XML"):
        await lab.pbx.cucm_curri(b"hello")


async def test_cucm_waits_five_seconds_at_most(lab: Lab) -> None:
    """It keeps its connections, so they do not tell that it has given up."""
    lab.api.gate.clear()
    asked = asyncio.get_running_loop().create_task(lab.pbx.cucm_curri(CURRI.format("800")))
    await lab.api.asked.wait()
    lab.clock.advance(curri.LONGEST_WAIT)
    lab.api.gate.set()
    await asked
    assert lab.api.ended == [("sess_1", "error")]
