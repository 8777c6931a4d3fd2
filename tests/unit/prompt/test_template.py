"""Chat templates as Transformers renders them, and hostile ones that end in a sentence."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from quern.errors import InvalidRequest, ModelError
from quern.prompt.isolated_template import IsolatedTemplate
from quern.prompt.template import CHATML, ChatTemplate, InProcessTemplate

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<b> & 'q' 冒泡 🫧\u2028"}]
DEADLINE = 1.0
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(params=[InProcessTemplate, IsolatedTemplate], scope="module")
def kind(request: pytest.FixtureRequest) -> type[InProcessTemplate | IsolatedTemplate]:
    return request.param


def render(kind: type[InProcessTemplate | IsolatedTemplate], source: str, **variables: str) -> str:
    template = kind(source, variables)
    try:
        return template.render(MESSAGES)
    finally:
        template.close()


def test_chatml(kind: type[InProcessTemplate | IsolatedTemplate]) -> None:
    assert render(kind, CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<b> & 'q' 冒泡 🫧\u2028<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"ä": ["<", None]}}}
CALLING = {
    "role": "assistant",
    "content": "x",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"ä": ["<", None]}}}],
}


def test_tools_and_calls_reach_the_template_as_objects(kind: type[InProcessTemplate | IsolatedTemplate]) -> None:
    source = (
        "{{ tools | length }}{{ tools[0].function.parameters['ä'][0] }}{{ tools | tojson }}\n"
        "{% for name, value in messages[0].tool_calls[0].function.arguments.items() %}\n"
        "{{ name }}={{ value | tojson }}\n"
        "{% endfor %}"
    )
    template = kind(source, {})
    rendered = template.render([CALLING], [TOOL])
    template.close()
    assert rendered == f'1<{json.dumps([TOOL], ensure_ascii=False)}\nä=["<", null]\n'


def test_chatml_shows_tools_first_and_calls_with_what_was_said(
    kind: type[InProcessTemplate | IsolatedTemplate],
) -> None:
    template = kind(CHATML, {})
    rendered = template.render(
        [CALLING, {"role": "tool", "content": "cold", "tool_call_id": "c1", "name": "f"}], [TOOL]
    )
    template.close()
    assert rendered == (
        '<|im_start|>system\nCall a function as <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>\n'
        f"{json.dumps(TOOL, ensure_ascii=False)}<|im_end|>\n"
        '<|im_start|>assistant\nx\n<tool_call>\n{"name": "f", "arguments": {"ä": ["<", null]}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>tool\ncold<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if add_generation_prompt %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s>Be brief."),
        ("{{ messages | length }}{{ tools is none }}", "2True"),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
            "user",
        ),
        ("{{ {'a': '<&>é'} | tojson }}", '{"a": "<&>é"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{{ '%Y' if strftime_now('%Y') | int > 2000 else '' }}", "%Y"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(messages[1].role) }}", "[user]"),
    ],
)
def test_conventions(kind: type[InProcessTemplate | IsolatedTemplate], source: str, text: str) -> None:
    assert render(kind, source, bos_token="<s>") == text


def test_a_refusal_carries_the_templates_own_words(kind: type[InProcessTemplate | IsolatedTemplate]) -> None:
    with pytest.raises(InvalidRequest, match=r"refuses these messages: Roles must alternate\."):
        render(kind, "{{ raise_exception('Roles must alternate.') }}")


def test_special_tokens_of_the_template_are_marked_and_those_of_messages_are_not(
    kind: type[InProcessTemplate | IsolatedTemplate],
) -> None:
    template = kind("{{ eos }}{{ messages[0].content }}<b>{{ '🫧<b>' if '<b>' in '<b>' }}", {"eos": "<b>"}, ["<b>"])
    rendered = template.render(MESSAGES[1:])
    template.close()
    mark = "\udfff"
    token = f"{mark}<b>{mark}"
    assert rendered == f"{token}{MESSAGES[1]['content']}{token}🫧{token}"


@pytest.mark.parametrize("source", ["{{ raise_exception('no <b> here') }}", "{{ {}['no <b> here'].y }}"])
def test_messages_of_errors_are_without_marks(kind: type[InProcessTemplate | IsolatedTemplate], source: str) -> None:
    template = kind(source, {}, ["<b>"])
    with pytest.raises((InvalidRequest, ModelError), match="no <b> here"):
        template.render(MESSAGES)
    template.close()


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}",
        "{{ messages[0].content.missing.more }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ (lipsum.__globals__)['os'] }}",
        "{% include 'other' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ '(' * 5000 }}{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    ],
)
def test_a_broken_template_is_an_error_with_a_sentence(
    kind: type[InProcessTemplate | IsolatedTemplate], source: str
) -> None:
    with pytest.raises(ModelError, match="chat template"):
        render(kind, source)


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages }}{% endfor %}{% endfor %}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ messages[0].content * 10**9 }}",
        "{{ 'a' * 10**10 }}",
        "{{ (messages | length) ** 99999999999 }}",
        "{{ '%2000000000d' % 1 }}",
        "{{ 'a' | center(2 * 10**9) }}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    ],
)
def test_a_hostile_template_ends_in_a_sentence(source: str) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError, match="chat template"):
        IsolatedTemplate(source, {}, seconds=DEADLINE).render(MESSAGES)
    assert time.monotonic() - started < 10 * DEADLINE


@pytest.fixture
def template() -> Iterator[IsolatedTemplate]:
    template = IsolatedTemplate("{{ messages[0].content }}", {})
    yield template
    template.close()


def ask(template: ChatTemplate, content: str) -> str:
    return template.render([{"role": "user", "content": content}])


def workers() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "quern.prompt.template_worker" in child.cmdline()]


def test_after_a_prompt_that_took_too_long_the_next_one_is_rendered() -> None:
    source = "{% if messages[0].content == 'loop' %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    template = IsolatedTemplate(source, {}, seconds=3)
    with pytest.raises(ModelError, match="did not finish within 3 seconds"):
        ask(template, "loop")
    assert ask(template, "next") == "next"
    template.close()


def test_a_worker_that_was_killed_is_replaced(template: IsolatedTemplate) -> None:
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(5)
    assert ask(template, "next") == "next"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_worker_that_somebody_kills_over_a_prompt_costs_no_prompt(
    template: IsolatedTemplate, number: signal.Signals
) -> None:
    (worker,) = workers()
    worker.suspend()
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(ask(template, "again")))
    asking.start()
    while not template._lock.locked():
        assert asking.is_alive()
    time.sleep(0.05)
    worker.send_signal(number)
    with suppress(psutil.NoSuchProcess):
        worker.resume()
    asking.join(10)
    assert answers == ["again"]
    assert worker not in workers()


def test_a_worker_that_hangs_is_given_up_and_the_next_prompt_is_rendered() -> None:
    template = IsolatedTemplate("{{ messages[0].content }}", {}, seconds=3)
    template._seconds = template._worker._seconds = 0.1
    (worker,) = workers()
    worker.suspend()
    with pytest.raises(ModelError, match=r"within 0\.1 seconds"):
        ask(template, "hangs")
    assert not worker.is_running()
    template._seconds = 3
    assert ask(template, "next") == "next"
    template.close()


def test_one_worker_serves_all_prompts_and_long_ones_too(template: IsolatedTemplate) -> None:
    (before,) = workers()
    long = "冒泡🫧\n" * 500_000
    assert ask(template, long) == long
    assert [ask(template, str(number)) for number in range(50)] == [str(number) for number in range(50)]
    assert [worker.pid for worker in workers()] == [before.pid]


def test_threads_get_their_own_answers(template: IsolatedTemplate) -> None:
    answers: dict[str, str] = {}

    def run(content: str) -> None:
        answers[content] = ask(template, content)

    threads = [threading.Thread(target=run, args=(str(number),)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {str(number): str(number) for number in range(20)}


def test_a_closed_template_leaves_no_process(template: IsolatedTemplate) -> None:
    assert len(workers()) == 1
    template.close()
    template.close()
    assert workers() == []


def test_a_forgotten_template_leaves_no_process() -> None:
    template = IsolatedTemplate("x", {})
    assert len(workers()) == 1
    del template
    assert workers() == []


def test_the_worker_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERN_STORE__URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("HF_TOKEN", "secret")
    template = IsolatedTemplate("x", {})
    (worker,) = workers()
    assert "secret" not in str(worker.environ())
    template.close()


def test_files_beside_the_server_are_not_taken_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    template = IsolatedTemplate("x", {})
    assert template.render(MESSAGES) == "x"
    template.close()


def test_a_worker_that_can_not_be_started_is_an_error_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    with pytest.raises(ModelError, match="can't be started"):
        IsolatedTemplate("x", {})
