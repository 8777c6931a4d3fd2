"""Tokens whose probabilities a request changes have to be the model's."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Quern

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
REQUESTS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("token_id", [-1, 265, 99999999, 2**70])
async def test_a_token_that_the_model_does_not_have_is_refused(
    quern: Quern, path: str, body: dict[str, Any], token_id: int
) -> None:
    response = await quern.client.post(path, json={**body, "logit_bias": {str(token_id): 5}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias"), response.text
    assert "token id that the model doesn't have: ids are 0 to 264" in response.json()["error"]["message"]
    assert not quern.engine.requests


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_every_token_of_the_model_may_have_a_bias(quern: Quern, path: str, body: dict[str, Any]) -> None:
    response = await quern.client.post(path, json={**body, "logit_bias": {"0": 5, "264": -5}})
    assert response.status_code == 200, response.text
    assert quern.engine.requests[0].sampling.logit_bias == {0: 5, 264: -5}
