"""Which format a model's template teaches."""

from __future__ import annotations

from quern.grammar.tool_calls import ToolFormat, tool_format


def test_the_template_tells_the_format() -> None:
    assert tool_format('<tool_call>\n{"name": <function-name>}\n</tool_call>') is ToolFormat.JSON
    assert tool_format("<tool_call>\n<function=example_function_name>\n</tool_call>") is ToolFormat.XML
    assert tool_format("{{ messages }}") is None
