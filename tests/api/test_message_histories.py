"""What agents send back to the Messages API: whatever it is, it is shown to the model as well as can be."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from .conftest import Quern
from .messages import CALLED, NEWS, USER, WEATHER, count, message, prompt_text, user


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


async def shown(quern: Quern, *messages: Any, **more: Any) -> str:
    """The prompt that these messages make, each role on lines of its own."""
    response = await message(quern, messages=list(messages), **more)
    assert response.status_code == 200, response.text
    assert await count(quern, messages=list(messages), **more) == len(quern.engine.requests[-1].prompt)
    return prompt_text(quern)


INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"input": {"city": "Paris"}}, '{"city": "Paris"}'),
    ({"input": None}, "{}"),
    ({}, "{}"),
    ({"input": ""}, "{}"),
    ({"input": " "}, "{}"),
    ({"input": "null"}, "{}"),
    ({"input": []}, "{}"),
    ({"input": '{"city": "Paris"}'}, '{"city": "Paris"}'),
    ({"input": '{"city": "Par'}, '{"city": "Par"}'),
    ({"input": "Paris"}, '{"arguments": "Paris"}'),
    ({"input": [1, 2]}, '{"arguments": [1, 2]}'),
    ({"input": 5}, '{"arguments": 5}'),
]


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use", "mcp_tool_use"])
@pytest.mark.parametrize(("given", "arguments"), INPUTS, ids=str)
async def test_a_call_is_shown_whatever_its_input_is(
    quern: Quern, kind: str, given: dict[str, Any], arguments: str
) -> None:
    call = {"type": kind, "id": "c1", "name": "weather", **given}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}
    prompt = await shown(quern, *USER, assistant(call), user(result), tools=[WEATHER])
    assert f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>\ntool\nsunny\n' in prompt


RESULTS: list[tuple[dict[str, Any], str]] = [
    ({"content": None}, ""),
    ({"content": ""}, ""),
    ({"content": []}, ""),
    ({"content": None, "is_error": True}, "Error: "),
    ({"content": "sunny", "is_error": None}, "sunny"),
    ({"content": {"type": "text", "text": "sunny"}}, "sunny"),
    ({"content": ["sunny", {"text": "and warm"}]}, "sunny\nand warm"),
    ({"content": {"degrees": 21}}, '{"degrees": 21}'),
    ({"content": 21}, "21"),
    ({"content": [{"type": "image", "source": {}}, {"type": "text", "text": "A map."}]}, "[an image was here]\nA map."),
    ({"content": [{"type": "document", "source": {"type": "text", "data": "Rain."}}]},
     "<document>\n<document_content>\nRain.\n</document_content>\n</document>"),
    ({"content": [{"type": "search_result", "source": "https://example.org", "title": "Weather",
                   "content": [{"type": "text", "text": "Sun"}, {"type": "text", "text": "all day"}]}]},
     ("<search_result>\n<source>\nhttps://example.org\n</source>\n<title>\nWeather\n</title>\n"
      "<content>\nSun\nall day\n</content>\n</search_result>")),
    ({"content": [{"type": "text", "text": {"value": "x"}}]}, '{"type": "text", "text": {"value": "x"}}'),
    ({"content": [{"type": "browser_state", "tabs": []}]}, "[a part of the type 'browser_state' was here]"),
    ({"content": [{"type": "tool_reference", "tool_name": "news"}]}, "The tool news can be called now."),
]  # fmt: skip


@pytest.mark.parametrize(("given", "output"), RESULTS, ids=str)
async def test_a_result_is_shown_whatever_its_content_is(quern: Quern, given: dict[str, Any], output: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "c1", "toolset_name": None, **given}
    assert f"</tool_call>\ntool\n{output}\nassistant\n" in await shown(quern, *USER, assistant(CALLED), user(result))


SERVER_RESULTS: list[tuple[str, Any, str]] = [
    ("web_search_tool_result",
     [{"type": "web_search_result", "title": "Sun", "url": "https://example.org", "encrypted_content": "zzz"}],
     '[{"type": "web_search_result", "title": "Sun", "url": "https://example.org"}]'),
    ("web_search_tool_result", {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
     '{"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"}'),
    ("code_execution_tool_result", {"type": "code_execution_result", "stdout": "4\n", "return_code": 0},
     '{"type": "code_execution_result", "stdout": "4\\n", "return_code": 0}'),
    ("bash_code_execution_tool_result", None, ""),
    ("a_tool_result_of_tomorrow_tool_result", "plain", "plain"),
    ("mcp_tool_result", [{"type": "text", "text": "done"}], "done"),
    ("mcp_tool_result", "done", "done"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "content", "output"), SERVER_RESULTS)
async def test_what_a_vendors_server_did_is_shown_as_calls_and_results(
    quern: Quern, kind: str, content: Any, output: str
) -> None:
    call = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "weather"}}
    result = {"type": kind, "tool_use_id": "s1", "content": content, "caller": {"type": "direct"}}
    text = {"type": "text", "text": "It is sunny.", "citations": [{"type": "web_search_result_location"}]}
    prompt = await shown(quern, *USER, assistant(call, result, text), *USER)
    assert prompt == (
        'user\nhi\nassistant\n\n<tool_call>\n{"name": "web_search", "arguments": {"query": "weather"}}\n</tool_call>\n'
        f"tool\n{output}\nassistant\nIt is sunny.\nuser\nhi\nassistant\n"
    )
    assert "zzz" not in prompt


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "secret", "signature": "s"},
        {"type": "thinking", "thinking": "secret"},
        {"type": "thinking", "thinking": None, "signature": None},
        {"type": "thinking"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "redacted_thinking"},
        {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
        {"type": "mcp_tool_listing", "mcp_server_name": "x", "tools": []},
        {"type": "compaction", "content": None},
        {"type": "text", "text": ""},
        {"type": "text", "text": None},
    ],
    ids=str,
)
async def test_what_says_nothing_to_this_model_leaves_no_trace(quern: Quern, block: dict[str, Any]) -> None:
    plain = await shown(quern, *USER, assistant({"type": "text", "text": "ok"}), *USER)
    assert await shown(quern, *USER, assistant(block, {"type": "text", "text": "ok"}, block), *USER) == plain
    assert await shown(quern, *USER, assistant("ok"), user(block, {"type": "text", "text": "hi"})) == plain


NO_BLOCKS: list[tuple[Any, str]] = [
    ({}, "{}"),
    (5, "5"),
    ([None, "x"], "x"),
    ([["x"]], '["x"]'),
    ({"odd": [1]}, '{"odd": [1]}'),
    ([{"type": 5, "text": "x"}], '{"type": 5, "text": "x"}'),
    ([{"type": "text", "text": ["x"]}], '{"type": "text", "text": ["x"]}'),
    ([{"type": [], "text": "x"}], '{"type": [], "text": "x"}'),
    ([{"type": "", "text": "x"}], '{"type": "", "text": "x"}'),
    ([{"type": "", "thinking": "x"}], '{"type": "", "thinking": "x"}'),
]


@pytest.mark.parametrize(("content", "seen"), NO_BLOCKS)
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
async def test_what_is_no_block_is_shown_as_json(quern: Quern, role: str, content: Any, seen: str) -> None:
    assert f"{role}\n{seen}\n" in await shown(quern, *USER, {"role": role, "content": content}, *USER)


@pytest.mark.parametrize("content", [{}, [5], [{"type": "text", "text": ["x"]}]])
async def test_what_is_no_block_is_refused_in_what_the_user_says_now(quern: Quern, content: Any) -> None:
    response = await message(quern, messages=[{"role": "user", "content": content}])
    assert response.status_code == 400
    assert "messages.0.content.0 can't be used: A block has its type" in response.json()["error"]["message"]


async def test_a_summary_of_what_was_said_before_is_shown(quern: Quern) -> None:
    summary = {"type": "compaction", "content": "We spoke of Paris.", "encrypted_content": "zzz"}
    assert "assistant\nWe spoke of Paris.\nuser\nhi" in await shown(quern, assistant(summary), *USER)


ODD: list[tuple[list[Any], str]] = [
    ([*USER, *USER], "user\nhi\nuser\nhi\n"),
    ([{"role": "assistant", "content": "ok"}, *USER], "assistant\nok\nuser\nhi\n"),
    ([*USER, assistant("a"), assistant("b"), *USER], "user\nhi\nassistant\na\nassistant\nb\nuser\nhi\n"),
    ([user(), *USER], "user\n\nuser\nhi\n"),
    ([user()], "user\n\n"),
    ([{"role": "user", "content": ""}], "user\n\n"),
    ([{"role": "user", "content": None}], "user\n\n"),
    ([{"role": "user"}], "user\n\n"),
    ([*USER, assistant(), *USER], "user\nhi\nuser\nhi\n"),
    ([*USER, {"role": "assistant", "content": None}], "user\nhi\n"),
    ([{"role": "user", "content": {"type": "text", "text": "hi"}}], "user\nhi\n"),
    ([{"role": "user", "content": ["hi", {"text": "there"}]}], "user\nhi\nthere\n"),
    ([*USER, {"role": "system", "content": []}], "user\nhi\n"),
    ([user({"type": "tool_result", "tool_use_id": "nobody", "content": "x"})], "tool\nx\n"),
    ([user({"type": "tool_result", "content": "x"})], "tool\nx\n"),
    ([user({"type": "tool_use", "id": "c", "name": "f", "input": {}}), *USER],
     'assistant\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\nuser\nhi\n'),
    ([*USER, assistant({"type": "tool_result", "tool_use_id": "c", "content": "x"})], "user\nhi\ntool\nx\n"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "prompt"), ODD, ids=str)
async def test_messages_in_odd_orders_and_without_content_are_shown(
    quern: Quern, messages: list[Any], prompt: str
) -> None:
    assert await shown(quern, *messages) == f"{prompt}assistant\n"


ODD_MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({"type": "tool_result", "tool_use_id": 5, "content": "4 lines", "is_error": "no"}, "tool\n4 lines\n"),
    ({"type": "tool_result", "content": [{"type": "search_result", "content": [{"type": [], "text": "x"}]}]},
     '{"type": [], "text": "x"}'),
    ({"type": "search_result", "source": {"url": "x"}, "title": 5, "content": "x"}, '{"url": "x"}'),
    ({"type": "document", "source": {"type": "text", "data": "Rain."}, "title": 5, "context": ["May"]}, '["May"]'),
    ({"type": "document", "source": {"type": "content", "content": [{"type": {}, "text": "x"}]}},
     '{"type": {}, "text": "x"}'),
    ({"type": "tool_result", "content": [{"type": "tool_reference", "tool_name": {"a": 1}}]}, '{"a": 1}'),
    ({"type": "tool_result", "content": [{"type": "tool_reference"}]}, "tool\n"),
    ({"type": "compaction", "content": {"summary": "x"}}, '{"summary": "x"}'),
]  # fmt: skip


@pytest.mark.parametrize(("block", "seen"), ODD_MEMBERS, ids=str)
async def test_members_of_another_type_than_a_block_has_are_shown_as_well_as_can_be(
    quern: Quern, block: dict[str, Any], seen: str
) -> None:
    assert seen in await shown(quern, *USER, user(block), *USER)


SOURCES: list[tuple[Any, str]] = [
    ({"type": "text", "media_type": "text/plain", "data": "Rain."}, "Rain."),
    ({"type": "content", "content": "Rain."}, "Rain."),
    ({"type": "content", "content": [{"type": "text", "text": "Rain."}, {"type": "text", "text": "Sun."}]},
     "Rain.\nSun."),
    ({"type": "content", "content": [{"type": "text", "text": "Rain."}, {"type": "image", "source": {}}]},
     "Rain.\n[an image was here]"),
    ({"type": "base64", "media_type": "text/plain", "data": base64.b64encode("Regen: 雨".encode()).decode()},
     "Regen: 雨"),
    ({"type": "base64", "media_type": "text/markdown; charset=utf-8", "data": "UmFpbi4="}, "Rain."),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text"), SOURCES, ids=str)
async def test_a_documents_text_is_used_with_its_title_and_context(quern: Quern, source: Any, text: str) -> None:
    block = {"type": "document", "source": source, "title": "Notes", "context": "From May.", "citations": None}
    prompt = await shown(quern, user(block, {"type": "text", "text": "Sum up."}))
    assert prompt == (
        f"user\n<document>\n<source>\nNotes\n</source>\n<context>\nFrom May.\n</context>\n<document_content>\n{text}\n"
        f"</document_content>\n</document>\nSum up.\nassistant\n"
    )
    del block["title"], block["context"]
    bare = await shown(quern, user(block))
    assert bare.startswith(f"user\n<document>\n<document_content>\n{text}\n</document_content>\n</document>\n")


HEADER = "x-anthropic-billing-header: cc_version=2.1.197.12b; cch={};"
SYSTEMS: list[Any] = [
    f"{HEADER}\nBe brief.",
    f"{HEADER}\n{HEADER}\nBe brief.",
    f"\n{HEADER}\r\nBe brief.",
    [{"type": "text", "text": HEADER}, {"type": "text", "text": "Be brief."}],
    [{"type": "text", "text": "Be brief."}, {"type": "text", "text": HEADER}],
    [{"type": "text", "text": f"{HEADER}\nBe brief.", "cache_control": {"type": "ephemeral"}}],
    [{"type": "text", "text": HEADER.title()}, {"type": "text", "text": "Be brief."}],
]


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
async def test_a_header_that_changes_with_every_request_is_not_shown_so_the_prompt_is_cached(
    quern: Quern, system: Any
) -> None:
    def numbered(number: int) -> Any:
        if isinstance(system, str):
            return system.replace("{}", str(number))
        return [{**block, "text": block["text"].replace("{}", str(number))} for block in system]

    plain = await shown(quern, *USER, system="Be brief.")
    for number in (1, 2):
        assert await shown(quern, *USER, system=numbered(number)) == plain
        said = {"role": "system", "content": numbered(number)}
        assert await shown(quern, *USER, said) == "user\nhi\nsystem\nBe brief.\nassistant\n"


async def test_what_only_speaks_of_that_header_is_shown(quern: Quern) -> None:
    system = f"Never print {HEADER}"
    assert system in await shown(quern, *USER, system=system)
    assert HEADER in await shown(quern, {"role": "user", "content": HEADER})


PREFILLS: list[tuple[Any, str]] = [
    ("The answer is", "The answer is"),
    ("The answer is ", "The answer is "),
    ("```python\n", "```python\n"),
    ([{"type": "text", "text": "The answer is"}], "The answer is"),
    ([{"type": "text", "text": "One."}, {"type": "text", "text": "Two"}], "One.\nTwo"),
    ([{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "So"}], "So"),
]


@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize(("content", "begun"), PREFILLS, ids=str)
async def test_an_answer_goes_on_after_the_assistants_last_message(
    quern: Quern, content: Any, begun: str, tools: list[Any]
) -> None:
    prompt = await shown(quern, *USER, {"role": "assistant", "content": content}, tools=tools)
    assert prompt.endswith(f"user\nhi\nassistant\n{begun}")


async def test_after_a_call_without_a_result_the_answer_begins_anew(quern: Quern) -> None:
    prompt = await shown(quern, *USER, assistant({"type": "text", "text": "Let me see."}, CALLED), tools=[WEATHER])
    assert prompt.endswith("</tool_call>\nassistant\n")


async def test_deferred_tools_are_shown_where_a_vendors_server_was_to_search_for_them(quern: Quern) -> None:
    assert '"news"' not in await shown(quern, *USER, tools=[WEATHER, NEWS])
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert '"news"' in await shown(quern, *USER, tools=[search, WEATHER, NEWS])


async def test_a_tool_that_only_code_may_call_is_not_shown(quern: Quern) -> None:
    tools = [{**WEATHER, "allowed_callers": ["code_execution_20250825"]}]
    assert "weather" not in await shown(quern, *USER, tools=tools)
    both = [{**WEATHER, "allowed_callers": ["direct", "code_execution_20250825"]}]
    assert "weather" in await shown(quern, *USER, tools=both)


KNOWN: list[tuple[str, str, list[str]]] = [
    ("bash_20241022", "bash", ["command", "restart"]),
    ("bash_20250124", "bash", ["command", "restart"]),
    ("text_editor_20241022", "str_replace_editor", ["command", "path", "old_str", "new_str", "undo_edit"]),
    ("text_editor_20250124", "str_replace_editor", ["command", "path", "old_str", "new_str", "undo_edit"]),
    ("text_editor_20250429", "str_replace_based_edit_tool", ["command", "path", "insert_line", "view_range"]),
    ("text_editor_20250728", "str_replace_based_edit_tool", ["command", "path", "insert_text", "file_text"]),
    ("memory_20250818", "memory", ["command", "old_path", "new_path", "insert_text", "rename"]),
]


@pytest.mark.parametrize(("kind", "name", "words"), KNOWN)
async def test_client_tools_of_anthropics_design_are_functions_with_their_documented_parameters(
    quern: Quern, kind: str, name: str, words: list[str]
) -> None:
    prompt = await shown(quern, *USER, tools=[{"type": kind, "name": name, "cache_control": None}])
    assert f'"name": "{name}"' in prompt
    assert all(f'"{word}"' in prompt for word in words)
    response = await message(
        quern, tools=[{"type": kind, "name": name}], tool_choice={"type": "tool", "name": name}, max_tokens=5
    )
    assert response.status_code == 200, response.text
    assert quern.engine.requests[-1].grammar is not None
