"""`quern doctor`: will it run here, and if not, what to do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from quern.cli import checks, facts
from quern.cli.checks import Check, LocatedModel, PortFacts, Status
from quern.cli.progress import progress_display
from quern.config import LogLevel, LogSettings, Settings
from quern.config_models import EngineName
from quern.config_sources import load_settings
from quern.engine.engine_choice import EngineChoice
from quern.errors import ConfigError
from quern.models.locate import model_id
from quern.obs.logging import configure_logging

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
INDENT = " " * 16


def doctor(
    model: Annotated[
        str | None, typer.Option(help="A name of `quern models`, a GGUF file or a model's folder.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address that the server is to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that the server is to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where models and the database live.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read the whole model file and check its SHA-256.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check whether the server can run here, and say what to do where it can't.

    Looks at the machine, the model, the disk, the database and the port, with the same settings as `quern serve`. A
    database that is there is opened, which brings it to this version's schema. Exits with 1 if a check fails; warnings
    alone exit with 0.

    Example: quern doctor --model qwen2.5-coder-7b
    """
    given = {"data_dir": data_dir} if data_dir is not None else {}
    server = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    named = {"name": model} if model is not None else {}
    configure_logging(LogSettings(level=LogLevel.WARNING))
    report = examine(load_settings(config, {**given, "server": server, "model": named}), checksum=verify)
    failed = any(check.status is Status.FAIL for check in report)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in report]}, indent=2))
    else:
        _print(report)
    if failed:
        raise typer.Exit(1)


def examine(settings: Settings, *, checksum: bool = False) -> list[Check]:
    """Every check that matters with these settings, in the order of the report."""
    cpu = facts.cpu_facts()
    port = facts.port_facts(settings.server)
    report = [
        checks.check_python(sys.version_info[:3]),
        checks.check_cpu(cpu),
        checks.check_cores(cpu, settings.engine.threads),
    ]
    to_fetch = 0
    if settings.engine.name is not EngineName.FAKE:
        with progress_display() as progress:
            model = facts.locate_model(settings.model.name, settings.models_dir, checksum=checksum, progress=progress)
        to_fetch = model.to_fetch
        report.append(checks.check_model(model))
        if not model.problem:
            choice = facts.engine_choice(settings.engine, model)
            report += [checks.check_engine(choice), *_engine_checks(settings, model, choice, port)]
    return [
        *report,
        checks.check_disk(facts.disk_facts(settings.data_dir, to_fetch)),
        checks.check_database(facts.database_facts(settings)),
        checks.check_port(port),
    ]


def _engine_checks(
    settings: Settings, model: LocatedModel, choice: EngineChoice | ConfigError, port: PortFacts
) -> list[Check]:
    """What the chosen engine needs besides the model."""
    name = choice.name if isinstance(choice, EngineChoice) else settings.engine.name
    if name is EngineName.VLLM:
        return [checks.check_vllm(facts.vllm_program(settings))]
    if name is EngineName.TRANSFORMERS:
        return [checks.check_transformers(facts.transformers_python(settings))]
    if name is EngineName.REMOTE:
        if model.path is None or isinstance(choice, ConfigError):
            return []
        return [checks.check_remote(facts.remote_servers(settings.engine, model.path))]
    if settings.engine.url is not None:
        return []
    weights, kv_cache = facts.memory_needed(settings.engine, model, choice)
    served = model_id(settings.model.name) in port.models
    return [checks.check_memory(facts.memory_facts(weights, kv_cache, served=served))]


def _print(report: list[Check]) -> None:
    console = Console(highlight=False)
    with console.capture() as captured:
        for check in report:
            line = Text.assemble((f"{check.status:5}", STYLES[check.status]), f" {check.name:9} {check.found}")
            console.print(line, soft_wrap=True)
            if check.advice:
                console.print(f"{INDENT}{check.advice}", soft_wrap=True, markup=False)
        console.print(_verdict([check.name for check in report if check.status is Status.FAIL]), soft_wrap=True)
    # Not by the console itself: that would end the process with a failure where nobody reads any more.
    print(captured.get(), end="")


def _verdict(failed: list[str]) -> str:
    return f"Not ready: {', '.join(failed)}." if failed else "Ready."
