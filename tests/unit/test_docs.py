"""The docs tell the truth: every setting, route and command appears."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from quern.app import Application
from quern.cli.checks import WORK_MEMORY_BYTES
from quern.cli.main import build_app
from quern.config import Settings
from quern.config_models import EngineSettings
from quern.config_sources import setting_fields
from quern.engine.fake import FakeEngine
from quern.modelfiles.sizes import kv_cache_bytes
from quern.models.catalog import CATALOG, CatalogEntry
from quern.prompt.codec import TextCodec
from quern.turns.models import ServedModel

ROOT = Path(__file__).parents[2]
DOCS = {path.name: path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}

SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py")}


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None or isinstance(value, SecretStr):
        return ""
    shown = value.value if isinstance(value, Enum) else value
    return f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"


def settings_table() -> str:
    """The table of docs/operations.md, from the settings themselves."""
    rows = ["| setting | default | |", "|---|---|---|"]
    rows.append(f"| `data_dir` | `$XDG_DATA_HOME/quern` | {Settings.model_fields['data_dir'].description} |")
    for name, setting in setting_fields().items():
        if name != "data_dir":
            rows.append(f"| `{name}` | {_default(setting)} | {setting.description} |")
    return "\n".join(rows)


def test_the_operations_page_has_the_table_of_all_settings() -> None:
    assert settings_table() in DOCS["operations.md"], f"put this table there:\n{settings_table()}"


def test_the_api_page_has_every_route(tmp_path: Path) -> None:
    application = Application(Settings(data_dir=tmp_path), [ServedModel("fake", FakeEngine(), TextCodec.builtin())])
    for path, methods in application.asgi.openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}" in DOCS["api.md"], f"{method.upper()} {path} is not in docs/api.md"


def test_every_command_is_in_the_readme_and_explains_itself() -> None:
    commands: dict[str, object] = getattr(get_command(build_app()), "commands", {})
    assert set(commands) >= {"serve", "generate", "chat", "pull", "models", "doctor", "status", "ps", "stop"}
    for name, command in commands.items():
        assert f"quern {name}" in DOCS["README.md"], f"quern {name} is not in the README"
        assert getattr(command, "help", None), f"quern {name} has no help"


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_the_readme_says_of_every_model_what_it_takes(entry: CatalogEntry) -> None:
    sums = [entry.size + kv_cache_bytes(entry.kv_shape, tokens) + WORK_MEMORY_BYTES for tokens in (8192, 81920)]
    file, least, most = (f"{size / 1e9:.1f}" for size in (entry.size, *sums))
    assert f"| `{entry.name}` | {file} GB | {least} to {most} GB |" in DOCS["README.md"]
    assert EngineSettings().kv_tokens == 81920


def _section(page: str, heading: str) -> str:
    """A section of a page, without its heading and what comes after it."""
    _, _, rest = DOCS[page].partition(f"{heading}\n")
    assert rest, f"{page} has no section {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _defined(name: str) -> bool:
    """Whether `function`, `Class` or `Class.method` is defined somewhere in the sources."""
    owner, _, method = name.rpartition(".")
    where = (
        rf"^class {owner}\b(?:(?!^class ).)*?^    (?:async )?def {method}\b"
        if owner
        else rf"^(?:async def|def|class) {name}\b"
    )
    return any(re.search(where, source, re.MULTILINE | re.DOTALL) for source in SOURCES.values())


@pytest.mark.parametrize(
    ("heading", "most"),
    [("## One streamed chat request, start to end", 27), ("### One token, from the sampler to the socket", 14)],
)
def test_the_walks_of_the_architecture_page_are_short_and_pass_functions_that_exist(heading: str, most: int) -> None:
    walk = re.findall(r"^\| (\d+) \| `([\w.]+)`", _section("architecture.md", heading), re.MULTILINE)
    assert [int(number) for number, _ in walk] == list(range(1, len(walk) + 1))
    assert 5 < len(walk) <= most
    assert [name for _, name in walk if not _defined(name)] == []


def test_every_module_that_the_architecture_page_names_exists() -> None:
    names = set(re.findall(r"([\w/]+\.py)\b", DOCS["architecture.md"]))
    known = [*SOURCES, *(str(path.relative_to(ROOT)) for path in ROOT.glob("bench/*.py"))]
    assert [name for name in sorted(names) if not any(f"/{path}".endswith(f"/{name}") for path in known)] == []


@pytest.mark.parametrize("page", sorted(DOCS))
def test_links_between_pages_lead_somewhere(page: str) -> None:
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)", DOCS[page]):
        if "://" not in target:
            assert (folder / target).exists(), f"{page} links to {target}, which does not exist"


def test_no_page_names_a_path_of_somebodys_machine() -> None:
    for page, text in DOCS.items():
        assert not re.search(r"/(home|root|work)/\w", text), page


def test_every_row_of_the_fault_table_names_tests_that_exist() -> None:
    section = DOCS["operations.md"].partition("## When something breaks")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    faults = [row for row in rows[1:] if not row[0].startswith("| **")]
    assert len(faults) > 50
    for fault in faults:
        assert len(fault) == 4, f"a cell is missing, or one too many: {fault}"
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", fault[-1])
        assert tests, f"no test makes it happen: {fault[0]}"
        for file, name in tests:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
