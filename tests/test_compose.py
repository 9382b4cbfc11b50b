"""The compose file: sound YAML, and the rules that keep it safe and repeatable on one host."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ibook_assets.cli import app

ROOT: Final = Path(__file__).parents[1]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OUR_IMAGE: Final = "ibook:local"

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def runs_once(service: dict[str, Any]) -> bool:
    return bool(service.get("restart") == "no")


def commands_of(typer_app: Any) -> set[str]:
    import typer

    group = typer.main.get_command(typer_app)
    return set(group.commands["stream"].commands)  # type: ignore[attr-defined]


@each_service
def test_images_are_pinned_to_a_version(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].rpartition(":")
    assert service["image"] == OUR_IMAGE or re.fullmatch(r"v?\d+\.\d+(\.\d+)?([-.][\w.]+)?", tag)


@each_service
def test_nothing_runs_as_root(service: dict[str, Any]) -> None:
    assert str(service["user"]).split(":")[0] not in {"", "0", "root"}


@each_service
def test_what_stays_up_tells_its_health(service: dict[str, Any]) -> None:
    if runs_once(service):
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


@each_service
def test_ports_are_open_on_loopback_only(service: dict[str, Any]) -> None:
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@each_service
def test_what_is_waited_for_exists_and_can_happen(service: dict[str, Any]) -> None:
    for name, wait in service.get("depends_on", {}).items():
        once = wait["condition"] == "service_completed_successfully"
        assert once or wait["condition"] == "service_healthy"
        assert once == runs_once(SERVICES[name])


@each_service
def test_volumes_are_declared_or_files_of_the_repository(service: dict[str, Any]) -> None:
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()


@each_service
def test_secrets_come_from_outside(service: dict[str, Any]) -> None:
    for name, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET", name):
            assert value.startswith("${IBOOK_"), f"{name} is written in the file"


@each_service
def test_streams_are_started_by_commands_that_exist(service: dict[str, Any]) -> None:
    for words in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
        if list(words[-3:-1]) == ["ibook", "stream"]:
            assert words[-1] in commands_of(app)


def test_published_ports_differ() -> None:
    ports = [
        port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])
    ]
    assert len(ports) == len(set(ports))


def test_the_compose_plugin_reads_it() -> None:
    docker = shutil.which("docker")
    plugin = (
        docker
        and not subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
    )
    if not docker or not plugin:
        pytest.skip("docker compose is not installed; the rules above are checked without it")
    variables = {"IBOOK_POSTGRES_PASSWORD": "x", "IBOOK_S3_SECRET": "x", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [docker, "compose", "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_daemon_watches_the_server_that_compose_runs() -> None:
    settings = SERVICES["daemon"]["environment"]
    (published,) = SERVICES["api"]["ports"]
    port = published.rpartition(":")[2]
    assert settings["IBOOK_ROLLOUT_METRICS_URL"] == f"http://api:{port}/metrics"
