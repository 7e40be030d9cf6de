from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import kallglot_ari.ari
from kallglot_ari.ari import AriClient, operations
from kallglot_ari.ari.describe import RESOURCES, load, parse, python_name
from kallglot_ari.ari.generate import differences, main, render_models, render_operations
from kallglot_ari.ari.operations import OPERATIONS
from kallglot_ari.errors import LabError
from kallglot_ari.lab import roots
from kallglot_ari.lab.roots import Version
from tests.asterisk.conftest import missing

OURS = Path(kallglot_ari.ari.__file__).parent
FOLDER = "usr/share/asterisk/rest-api"
EMPTY = dict.fromkeys(RESOURCES, b'{"apis": []}')
SMALL = {
    **EMPTY,
    "channels": b"""{"apis": [{"path": "/channels/{channelId}/fooBar", "operations": [{
        "httpMethod": "POST", "nickname": "fooBar", "responseClass": "List[Thing]", "since": ["22.1.0", "20.5.0"],
        "summary": "PROSE", "parameters": [
        {"name": "channelId", "paramType": "path", "dataType": "string", "description": "PROSE"},
        {"name": "from", "paramType": "query", "dataType": "string", "allowMultiple": true},
        {"name": "howLong", "paramType": "query", "dataType": "int", "required": true},
        {"name": "variables", "paramType": "body", "dataType": "containers"}]}]}],
        "models": {"Thing": {"description": "PROSE", "properties": {
        "id": {"type": "string", "required": true, "description": "PROSE"}, "n": {"type": "double"}}}}}""",
}


def description_folder(version: Version) -> Path:
    """The description files of an Asterisk of the lab."""
    try:
        folder = roots.find_or_make(version, print).folder / FOLDER
    except LabError as error:
        missing(f"Asterisk {version}: {error}")
        raise
    if not (folder / "channels.json").exists():
        missing(f"Asterisk {version} has no description files in {folder}")
    return folder


def test_a_small_description() -> None:
    text = render_operations(parse(SMALL))
    assert (
        "    async def foo_bar(\n        self,\n        channel_id: str,\n        *,\n        how_long: int,\n" in text
    )
    assert "        from_: Sequence[str] | str | None = None,\n" in text
    assert "        variables: Mapping[str, str] | None = None,\n    ) -> tuple[Thing, ...]:\n" in text
    assert "`fooBar`: POST /channels/{channelId}/fooBar; since 20.5, 22.1." in text
    assert '"from": from_,' in text
    assert "    id: str\n    n: float | None = None\n" in render_models(parse(SMALL))


def test_no_prose_and_always_the_same() -> None:
    for render in (render_models, render_operations):
        assert "PROSE" not in render(parse(SMALL))
        assert render(parse(SMALL)) == render(parse(SMALL))
        ast.parse(render(parse(SMALL)))


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"apis": [{}]}', b'{"apis": 7}'])
def test_what_is_no_description(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"^sounds\.json: expected an ARI description, found "):
        parse({**EMPTY, "sounds": document})


def test_differences() -> None:
    assert differences(parse(SMALL), parse(SMALL)) == []
    lines = differences(parse(EMPTY), parse(SMALL))
    assert "+ model Thing.n: double" in lines
    assert "+ operation channels.fooBar(howLong): query int" in lines
    assert all(line.startswith("-") for line in differences(parse(SMALL), parse(EMPTY)))


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, document in SMALL.items():
        (tmp_path / f"{name}.json").write_bytes(document)
    assert main(["--from", str(tmp_path), "--compare", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "operations.py").read_text() == render_operations(parse(SMALL))
    assert (tmp_path / "models.py").read_text() == render_models(parse(SMALL))
    assert main(["--from", str(tmp_path / "nowhere")]) == 1
    assert "generate: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("externalMedia", "external_media"),
        ("sendDTMF", "send_dtmf"),
        ("absorbDTMF", "absorb_dtmf"),
        ("rtpstatistics", "rtp_statistics"),
        ("continueInDialplan", "continue_in_dialplan"),
        ("transfer_progress", "transfer_progress"),
        ("from", "from_"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert python_name(name) == expected


def test_an_ari_py_user_finds_every_operation(client: AriClient) -> None:
    for name, operation in OPERATIONS.items():
        resource, method = operation.python.split(".")
        found = getattr(type(getattr(client, resource)), method)
        assert inspect.iscoroutinefunction(found), name
        generated = getattr(getattr(operations, name[0].upper() + name.split(".")[0][1:]), method)
        assert f"`{name.split('.')[1]}`" in (generated.__doc__ or "")


@pytest.mark.asterisk
def test_the_generated_files_are_those_of_22() -> None:
    description = load(str(description_folder("22")))
    assert (OURS / "models.py").read_text() == render_models(description)
    assert (OURS / "operations.py").read_text() == render_operations(description)


@pytest.mark.asterisk
@pytest.mark.asterisk16
def test_16_has_nothing_that_22_lacks() -> None:
    lines = differences(load(str(description_folder("16"))), load(str(description_folder("22"))))
    assert [line for line in lines if not line.startswith("+")] == []
    assert "+ operation endpoints.refer: POST /endpoints/refer void" in lines
