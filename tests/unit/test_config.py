"""Settings: where they come from, which one wins, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quern.cli.config_file import in_force
from quern.config import Settings
from quern.config_sources import changed, load_settings, origins, reloaded, setting_fields, value_of
from quern.environment import child_environment
from quern.errors import ConfigError
from quern.types import DisconnectPolicy


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415

    for name in [name for name in os.environ if name.startswith("QUERN_")]:
        monkeypatch.delenv(name)


def _file(folder: Path, text: str) -> Path:
    path = folder / "quern.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file(tmp_path, "[server]\nport = 1001\nhost = '127.0.0.2'\nshutdown_grace_seconds = 5\n")
    monkeypatch.setenv("QUERN_SERVER__PORT", "1002")
    monkeypatch.setenv("QUERN_SERVER__HOST", "127.0.0.3")
    settings = load_settings(path, {"server": {"port": 1003}})
    assert settings.server.port == 1003
    assert settings.server.host == "127.0.0.3"
    assert settings.server.shutdown_grace_seconds == 5
    assert settings.turns.conversation_disconnect is DisconnectPolicy.HOLD


def test_settings_cannot_be_changed_once_read() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("QUERN_SERVER__PROT", "1", "server.prot"),
        ("QUERN_PORT", "1", "port"),
        ("QUERN_SERVER__PORT", "99999", "server.port"),
        ("QUERN_TURNS__MAX_QUEUED", "many", "turns.max_queued"),
        ("QUERN_LOG__FORMAT", "xml", "log.format"),
    ],
)
def test_a_variable_that_is_no_setting_or_has_no_usable_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load_settings()


def test_the_address_for_client_commands_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERN_SERVER", "http://127.0.0.1:9000")
    monkeypatch.setenv("QUERN_SERVER__PORT", "9001")
    assert load_settings().server.port == 9001


@pytest.mark.parametrize("names", [("QUERN_ENGINE", "QUERN_ENGINE__NAME"), ("QUERN_LOG__LEVEL", "QUERN_LOG__LEVEL__X")])
def test_a_room_that_is_given_a_value_beside_its_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    for name in names:
        monkeypatch.setenv(name, "fake")
    with pytest.raises(ConfigError, match=names[1]):
        load_settings()


def test_aliases_are_a_list_in_the_file_and_separated_by_commas_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().model.aliases == ()
    path = _file(tmp_path, "[model]\naliases = ['gpt-4o', 'claude, with a comma']\n")
    assert load_settings(path).model.aliases == ("gpt-4o", "claude, with a comma")
    monkeypatch.setenv("QUERN_MODEL__ALIASES", " gpt-4o,*, ,claude ")
    assert load_settings(path).model.aliases == ("gpt-4o", "*", "claude")
    monkeypatch.setenv("QUERN_MODEL__ALIASES", "")
    assert load_settings(path).model.aliases == ()


@pytest.mark.parametrize("text", ["[server]\nprot = 1\n", "[sever]\nport = 1\n", "surprise = true\n"])
def test_an_unknown_key_in_the_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="There is no setting"):
        load_settings(_file(tmp_path, text))


def test_a_file_that_cannot_be_read_or_parsed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_settings(tmp_path / "missing.toml")
    for text in ("port = = 1", "x = " + "[" * 5000, "[server]\nhost = 'a\x00b'"):
        with pytest.raises(ConfigError, match=r"quern\.toml"):
            load_settings(_file(tmp_path, text))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "quern.example", ""])
def test_addresses_that_others_can_reach_are_no_loopback(host: str) -> None:
    assert not load_settings(overrides={"server": {"host": host}}).server.loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_are_known_as_such(host: str) -> None:
    assert load_settings(overrides={"server": {"host": host}}).server.loopback


def test_secrets_appear_neither_in_a_settings_repr_nor_in_an_error() -> None:
    secret = "postgresql://user:hunter2@host/db"
    settings = load_settings(overrides={"store": {"url": secret}, "engine": {"api_key": "sk-hunter2"}})
    assert "hunter2" not in repr(settings)
    assert settings.database_url == secret
    with pytest.raises(ConfigError) as refused:
        load_settings(overrides={"store": {"url": ["hunter2"]}})
    assert "hunter2" not in str(refused.value)


def test_the_data_directory_is_made_absolute_and_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(overrides={"data_dir": "~/quern"}).data_dir == tmp_path / "quern"
    monkeypatch.chdir(tmp_path)
    assert load_settings(overrides={"data_dir": "here"}).database_url == f"sqlite+aiosqlite:///{tmp_path}/here/quern.db"


def test_child_processes_inherit_no_variable_that_may_hold_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERN_ENGINE__API_KEY", "sk-hunter2")
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    assert child_environment()["PIP_INDEX_URL"] == "kept"
    assert "hunter2" not in str(child_environment())


def test_a_running_server_takes_over_what_it_can_and_keeps_the_rest() -> None:
    old = load_settings()
    new = load_settings(
        overrides={
            "log": {"level": "debug"},
            "turns": {"max_queued": 3, "hold_seconds": 1},
            "engine": {"parallel": 2},
            "data_dir": "/elsewhere",
        }
    )
    taken = reloaded(old, new)
    assert changed(old, taken) == ["turns.max_queued", "log.level"]
    assert changed(taken, new) == ["data_dir", "engine.parallel", "turns.hold_seconds"]
    assert changed(old, reloaded(old, old)) == []


def test_every_setting_has_a_name_under_which_its_value_is_found() -> None:
    names = setting_fields()
    assert {"data_dir", "server.port", "generation.temperature", "log.level"} <= names.keys()
    assert value_of(Settings(), "server.port") == 8001
    assert all(value_of(Settings(), name) == value_of(load_settings(), name) for name in names)


SEVERAL = """
[engine]
parallel = 4
kv_tokens = 4096

[models.gaps]
path = "qwen2.5-coder-0.5b"
aliases = ["small"]
preload = false
[models.gaps.engine]
parallel = 8

[models."chat 1.5"]
path = "/srv/chat.gguf"
default = true
keep_alive_minutes = 5
"""


def test_several_models_each_have_the_engines_settings_but_for_their_own(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text(SEVERAL)
    chat, gaps = load_settings(path).to_serve()
    assert (chat.name, chat.source, chat.aliases, chat.preload, chat.keep_alive_minutes) == (
        "chat 1.5",
        "/srv/chat.gguf",
        (),
        True,
        5,
    )
    assert (gaps.name, gaps.source, gaps.aliases, gaps.preload) == ("gaps", "qwen2.5-coder-0.5b", ("small",), False)
    assert (chat.engine.parallel, gaps.engine.parallel) == (4, 8)
    assert chat.engine.kv_tokens == gaps.engine.kv_tokens == 4096


def test_what_is_in_force_of_several_models_can_be_read_again(tmp_path: Path) -> None:
    path, again = tmp_path / "quern.toml", tmp_path / "again.toml"
    path.write_text(SEVERAL)
    settings = load_settings(path)
    again.write_text(in_force(settings, origins(path)))
    assert load_settings(again).to_serve() == settings.to_serve()
    assert changed(settings, settings.model_copy(update={"models": {}})) == ["models"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('[model]\nname = "x"', "named twice"),
        ('[models.other]\naliases = ["small"]', "have the name or alias 'small'"),
        ('[models.other]\naliases = ["gaps"]', "have the name or alias 'gaps'"),
        ("[models.other]\ndefault = true", "only one model can be the default"),
        ("[models.other]\nsize = 3", "There is no setting models.other.size"),
        ('[models.other.engine]\nname = "gpu"', "models.other.engine.name can't be 'gpu'"),
    ],
)
def test_models_that_contradict_each_other_are_refused(tmp_path: Path, more: str, sentence: str) -> None:
    path = tmp_path / "quern.toml"
    path.write_text(f"{SEVERAL}\n{more}\n")
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_settings(path)


def test_a_models_secret_is_not_shown_where_it_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text(f"{SEVERAL}\n[models.far.engine]\napi_key = [4711]\n")
    with pytest.raises(ConfigError, match=r"The setting models\.far\.engine\.api_key can't be used") as refused:
        load_settings(path)
    assert "4711" not in str(refused.value)
