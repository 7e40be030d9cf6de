"""The compose lab, built and run for real, with a call in it.

With a Docker engine the test builds and starts the lab itself. Without one, `$KALLGLOT_DOCKER_LAB` names a program that does
(`PROGRAM COMPOSE_DIR TESTCMD…` builds, starts, runs TESTCMD and takes all down); it runs this file again, inside the lab.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kallglot_ari.lab.phones import Phone
from kallglot_ari.lab.recording import Recording

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
INSIDE = "KALLGLOT_DOCKER_LAB_INSIDE"
BUILD_SECONDS = 1500
pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(BUILD_SECONDS + 120)]


def compose(*arguments: str, timeout: float = 60) -> str:
    done = subprocess.run(
        ["docker", "compose", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"docker compose {arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


def have_engine() -> bool:
    if not shutil.which("docker"):
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    return asked.returncode == 0


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """The lab, up and healthy."""
    if os.environ.get(INSIDE):
        yield
        return
    if not have_engine():
        pytest.skip("runs inside the stand-in for a Docker engine, or with one")
    try:
        compose("up", "--build", "--wait", "-d", timeout=BUILD_SECONDS)
        yield
    finally:
        compose("down", "-v", "-t", "5", timeout=120)


@pytest.mark.skipif(bool(os.environ.get(INSIDE)), reason="this is the inside")
def test_the_lab_in_a_stand_in_for_a_docker_engine(tmp_path: Path) -> None:
    if have_engine():
        pytest.skip("there is a Docker engine: the other tests run in it")
    stand_in = os.environ.get("KALLGLOT_DOCKER_LAB", "")
    if not stand_in:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have this: a Docker engine, or KALLGLOT_DOCKER_LAB", pytrace=False)
        pytest.skip("NOT TESTED: no Docker engine, and KALLGLOT_DOCKER_LAB names no stand-in for one")
    report = tmp_path / "inside.log"
    command = [stand_in, str(FOLDER), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    with report.open("w") as output:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, INSIDE: "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=BUILD_SECONDS,
            check=False,
        )
    said = report.read_text(errors="replace")
    print(said[-6000:])
    assert done.returncode == 0, said[-6000:]
    assert "5 passed" in said, said[-2000:]


def test_both_are_healthy_and_hardened(lab: None) -> None:
    names = compose("ps", "-q").split()
    assert len(names) == 2
    for name in names:
        told = subprocess.run(
            ["docker", "inspect", name], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        (container,) = json.loads(told)
        assert container["State"]["Health"]["Status"] == "healthy"
        assert container["HostConfig"]["ReadonlyRootfs"] is True
        assert container["Config"]["User"].split(":")[0] not in ("", "0", "root")
        assert container["HostConfig"]["CapDrop"] == ["ALL"]


def test_the_root_file_system_cannot_be_written(lab: None) -> None:
    for service in ("asterisk", "kallglot-ari"):
        command = ["docker", "compose", "exec", "-T", service, "sh", "-c", "touch /usr/x || echo refused; id -u"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
        assert "refused" in done.stdout
        assert done.stdout.split()[-1] == "1500"


def test_no_password_is_in_an_image(lab: None) -> None:
    secrets = compose("exec", "-T", "asterisk", "sh", "-c", "cat /run/lab-secrets/*")
    assert len(secrets) >= 4 * 36
    for service in ("asterisk", "kallglot-ari"):
        image = compose("images", "-q", service)
        told = (
            subprocess.run(
                ["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True, timeout=30
            ).stdout
            + subprocess.run(
                ["docker", "inspect", image], capture_output=True, text=True, check=True, timeout=30
            ).stdout
        )
        assert "password=" not in told.lower()
        assert all(secrets[i : i + 36] not in told for i in range(0, len(secrets), 36))


def test_the_metrics_want_the_token_that_prometheus_is_given(lab: None) -> None:
    url = "http://127.0.0.1:8090/metrics"  # comes from the network's gateway, which is not this machine to the service
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)
    token = compose("exec", "-T", "asterisk", "cat", "/run/lab-secrets/web-token")
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert b"kallglot_calls_active" in answer.read()
    # Prometheus' container is of another user, in the lab's group.
    assert compose("exec", "-T", "asterisk", "stat", "-c", "%a %g", "/run/lab-secrets/web-token") == "640 1500"


def loudest(heard: Recording) -> float:
    """The strongest frequency in Hz."""
    samples = heard.samples.astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * heard.rate / len(samples))


@pytest.mark.phones
async def test_a_call_is_translated_in_it(lab: None) -> None:
    address = compose("exec", "-T", "asterisk", "hostname", "-i").split()[0]
    password = compose("exec", "-T", "asterisk", "cat", "/run/lab-secrets/phone-password")
    registrar = f"{address}:5060"
    async with (
        await Phone.start("customer", registrar, password) as customer,
        await Phone.start("agent", registrar, password, on_call=0.2) as agent,
    ):
        await customer.call("101")
        await agent.wait_state("CONFIRMED", 20)
        await customer.wait_state("CONFIRMED", 20)
        began, ended = await customer.wait_spoken(await customer.tone(440, 3))
        assert loudest(agent.recording.since(began + 1, ended)) == pytest.approx(440, abs=2)
        began, ended = await agent.wait_spoken(await agent.tone(1000, 3))
        assert loudest(customer.recording.since(began + 1, ended)) == pytest.approx(1000, abs=2)
        await customer.hangup()
        await agent.wait_state("DISCONNECTED", 10)
    assert "0 active channels" in compose("exec", "-T", "asterisk", "asterisk", "-rx", "core show channels")
