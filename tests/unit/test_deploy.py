"""The recipes in deploy/ can be used as they are: settings are read, units and the configuration of nginx checked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from quern.cli import service_units
from quern.cli.service_units import Unit
from quern.config_models import EngineName
from quern.config_sources import load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RECIPES = sorted(path.parent for path in DEPLOY.glob("*/README.md"))
TOMLS = sorted(DEPLOY.glob("*/*.toml"))
UNITS = sorted(DEPLOY.glob("*/*.service"))
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


def _id(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 5
    assert len(TOMLS) >= 6
    assert len(UNITS) >= 2


@pytest.mark.parametrize("folder", RECIPES, ids=_id)
def test_every_recipe_has_a_smoke_test_that_can_be_run_and_says_what_was_run(folder: Path) -> None:
    smoke = folder / "smoke.sh"
    assert smoke.stat().st_mode & 0o111, f"{smoke} is not executable"
    subprocess.run(["bash", "-n", str(smoke)], check=True, timeout=30)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "## What was run, and what was not" in page
    for file in folder.iterdir():
        assert file.name == "README.md" or file.name in page, f"{folder.name}/README.md does not name {file.name}"


@pytest.mark.parametrize("page", sorted(DEPLOY.glob("**/*.md")), ids=_id)
def test_links_of_recipes_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|work)/\w", text)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (page.parent / target).exists(), f"{page} links to {target}, which does not exist"


@pytest.mark.parametrize("path", TOMLS, ids=_id)
def test_every_file_of_settings_is_read(path: Path) -> None:
    settings = load_settings(path, {})
    assert settings.engine.name in {EngineName.VLLM, EngineName.TRANSFORMERS, EngineName.REMOTE}
    assert Path(settings.model.name).is_absolute(), "a service finds no model by a path of somebody's own"
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert not set(written.get("store", {})) & {"url"}, "a secret is no line of a file that everybody can read"


def test_the_replicas_that_quern_asks_are_those_that_the_units_start() -> None:
    folder = DEPLOY / "vllm-router"
    ports = {urlsplit(url).port for url in load_settings(folder / "quern-without-router.toml", {}).engine.remote.urls}
    router = (folder / "vllm-router.service").read_text(encoding="utf-8")
    workers = re.search(r"--worker-urls((?: \S+)+)", router)
    assert workers is not None
    assert {urlsplit(url).port for url in workers[1].split() if url != "\\"} == ports
    first = re.search(r"--port \$\$\(\((\d+) \+ %i\)\)", (folder / "vllm@.service").read_text(encoding="utf-8"))
    assert first is not None
    assert ports == {int(first[1]), int(first[1]) + 1}
    (routed,) = load_settings(folder / "quern.toml", {}).engine.remote.urls
    assert f"--port {urlsplit(routed).port} " in router


def test_quern_asks_ray_serve_where_it_serves_the_same_folder() -> None:
    served = yaml.safe_load((DEPLOY / "ray-serve" / "serve.yaml").read_text(encoding="utf-8"))
    settings = load_settings(DEPLOY / "ray-serve" / "quern.toml", {})
    (url,) = settings.engine.remote.urls
    assert urlsplit(url).port == served["http_options"]["port"]
    (model,) = served["applications"][0]["args"]["llm_configs"]
    assert model["model_loading_config"]["model_source"] == settings.model.name
    assert model["deployment_config"]["num_replicas"] == 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=_id)
def test_units_are_verified_by_systemd(path: Path, tmp_path: Path) -> None:
    # The programs of a recipe are not on this machine: any that can be run will do.
    text = re.sub(r"^ExecStart=/opt/\S+", "ExecStart=/bin/true", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    unit = tmp_path / path.name.replace("@.", "@0.")
    unit.write_text(text, encoding="utf-8")
    assert _verified(unit) == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_what_a_gpu_needs_goes_with_the_unit_that_quern_writes(tmp_path: Path) -> None:
    unit = Unit("quern-gpu", ("/bin/true",), "127.0.0.1:8001", 30.0, config=Path("/etc/quern.toml"))
    (tmp_path / "quern-gpu.service").write_text(service_units.service(unit), encoding="utf-8")
    (tmp_path / "quern-gpu.socket").write_text(service_units.socket(unit), encoding="utf-8")
    dropin = tmp_path / "quern-gpu.service.d"
    dropin.mkdir()
    shutil.copy(DEPLOY / "gpu-box" / "gpu.conf", dropin)
    assert _verified(tmp_path / "quern-gpu.service") == ""
    # A line in [Service] that systemd does not know is told, so the check above can fail.
    with (dropin / "gpu.conf").open("a", encoding="utf-8") as file:
        file.write("PrivateCards=no\n")
    assert "PrivateCards" in _verified(tmp_path / "quern-gpu.service")


def _verified(unit: Path) -> str:
    """What systemd finds wrong with a unit."""
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_configuration_of_nginx_is_taken_by_nginx(tmp_path: Path) -> None:
    text = (DEPLOY / "two-querns" / "nginx.conf").read_text(encoding="utf-8")
    assert "proxy_buffering off;" in text
    changed = {
        r"/run/nginx\.pid": str(tmp_path / "nginx.pid"),
        r"quern-[ab]\.internal": "127.0.0.1",
        r"listen 80;": "listen 127.0.0.1:18080;",
        r"listen 443 ssl http2;": "listen 127.0.0.1:18443;",
        r"\n *ssl_certificate.*": "",
    }
    for pattern, replacement in changed.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, f"nginx.conf has no {pattern}"
    path = tmp_path / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    command = [str(NGINX), "-t", "-q", "-e", "stderr", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def test_the_sizing_page_has_the_tables_that_its_program_prints() -> None:
    command = [sys.executable, str(ROOT / "bench" / "sizing.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    page = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
    tables = printed.strip().split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert table in page, f"docs/sizing.md has another table than\n{table}"
