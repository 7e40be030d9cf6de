"""What `docker/monitoring` gives to Prometheus and Grafana: queries of metrics that exist, alarms that go off, a scrape that is let in."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kallglot_ari.metrics import Metrics
from tests.asterisk.conftest import missing
from tests.faults.served import free_port
from tests.web.conftest import TOKEN, Make

MONITORING = Path(__file__).parents[2] / "docker/monitoring"
ALERTS_TEST = Path(__file__).with_name("alerts.test.yml")
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


def families() -> dict[str, set[str]]:
    """Name of a series, as a query writes it → its labels."""
    found = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "describe") and hasattr(metric, "_labelnames"):
            (family,) = metric.describe()
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            for suffix in suffixes:
                found[family.name + suffix] = {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


@pytest.mark.parametrize("where", ["dashboard.json", "alerts.yml"])
def test_every_query_is_of_metrics_and_labels_that_exist(where: str) -> None:
    known = families()
    text = (MONITORING / where).read_text(encoding="utf-8")
    used = set(re.findall(r"\bkallglot_\w+", re.sub(r"docs/.*", "", text)))
    assert len(used) >= 7
    assert used <= set(known)
    asked = (
        list(QUERIES.values())
        if where == "dashboard.json"
        else re.findall(r"expr: (?:>-\n)?((?:.+\n)(?: {10}.+\n)*)", text)
    )
    assert len(asked) >= 9
    for query in asked:
        labels = {name for names in re.findall(r"by \(([^)]*)\)", query) for name in names.replace(" ", "").split(",")}
        there = set.union(*(known.get(name, {"job"}) for name in re.findall(r"\b(?:kallglot_\w+|up)\b", query)))
        assert labels <= there | {"instance"}, query


def test_the_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of prometheus and promtool: the machine's, or those of Debian's package, unpacked and not installed."""
    if (there := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(there).parent
    if os.geteuid() != 0 or not shutil.which("dpkg-deb"):
        missing("prometheus: install it, or run as root on Debian")
    folder = tmp_path_factory.mktemp("prometheus")
    _unpack("prometheus", folder)
    if not (folder / "usr/bin/promtool").exists():  # a package of its own since Debian 14
        _unpack("promtool", folder)
    return folder / "usr/bin"


def _unpack(package: str, folder: Path) -> None:
    """Debian's `package`, as its sources are set up here, into `folder`."""
    download = ["apt-get", "download", "-q", package]
    for command in (download, ["apt-get", "update", "-q"], download):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        if packages := list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True, timeout=60)
            return
    missing(f"Debian's package {package} cannot be had: {done.stderr[-300:]}")


def promtool(programs: Path, *arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [programs / "promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_alarm_goes_off_on_what_it_is_for(programs: Path, tmp_path: Path) -> None:
    for file in (MONITORING / "alerts.yml", ALERTS_TEST):
        shutil.copy(file, tmp_path)
    promtool(programs, "check", "rules", "alerts.yml", cwd=tmp_path)
    promtool(programs, "test", "rules", ALERTS_TEST.name, cwd=tmp_path)
    named = re.findall(r"alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    assert named
    assert {name for name in named if f'alertname="{name}"' not in ALERTS_TEST.read_text()} == set()


def own_address() -> str:
    """An address of this machine that does not count as loopback, where there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


async def test_a_real_prometheus_scrapes_with_the_token_and_answers_every_panel(
    programs: Path, make_site: Make, tmp_path: Path
) -> None:
    site = await make_site(token=TOKEN, bind="0.0.0.0")
    (tmp_path / "token").write_text(TOKEN)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    configuration = (MONITORING / "prometheus.yml").read_text()
    for shipped, here in (
        ("/run/lab-secrets/web-token", str(tmp_path / "token")),
        ("kallglot-ari:8090", f"{own_address()}:{site.server.url.rsplit(':', 1)[1]}"),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
    ):
        assert shipped in configuration
        configuration = configuration.replace(shipped, here)
    (tmp_path / "prometheus.yml").write_text(configuration)
    promtool(programs, "check", "config", "prometheus.yml", cwd=tmp_path)
    url = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        programs / "prometheus", f"--web.listen-address={url}", "--storage.tsdb.path=data", "--config.file=prometheus.yml",
        cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def ask(path: str, **query: str) -> Any:
        async with site.http.get(f"http://{url}/api/v1/{path}", params=query) as answer:
            return await answer.json()

    try:
        async with asyncio.timeout(40):
            health = None
            while health != "up":
                await asyncio.sleep(0.3)
                try:
                    (target,) = (await ask("targets"))["data"]["activeTargets"]
                except (OSError, KeyError, ValueError):
                    continue
                health = target["health"]
                assert health != "down", target["lastError"]
            groups = (await ask("rules"))["data"]["groups"]
            assert len(groups[0]["rules"]) >= 9
            for name, query in QUERIES.items():
                answer = await ask("query", query=query)
                assert answer["status"] == "success", (name, answer)
    finally:
        process.kill()
        await process.wait()
