"""`POST /v1/code/generate`: one shot, no memory."""

from quern.engine.fake import FakeEngine

from .conftest import SEED, Quern, Start

BUBBLE_SORT = "用 Python 写一个最基础版的冒泡排序算法，只写函数体即可，不必写测试代码和示例"


def _answers(text: str) -> FakeEngine:
    return FakeEngine(reply=lambda _request: tuple(text.encode()))


async def test_a_prompt_gets_the_whole_answer_in_the_agreed_shape(start: Start) -> None:
    async with start(_answers("def f():\n    pass  # 完成")) as quern:
        response = await quern.client.post("/v1/code/generate", data={"prompt": BUBBLE_SORT})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"status": "success", "result": "def f():\n    pass  # 完成"}


async def test_the_prompt_reaches_the_engine_as_one_user_message_through_the_chat_template(start: Start) -> None:
    engine = _answers("x")
    async with start(engine) as quern:
        await quern.client.post("/v1/code/generate", data={"prompt": BUBBLE_SORT})
        expected = quern.codec.tokenizer.encode(BUBBLE_SORT)
    prompt = list(engine.requests[0].prompt)
    assert str(expected)[1:-1] in str(prompt)
    assert prompt.count(257) == 2, "one user message and the assistant's opening"


async def test_two_requests_know_nothing_of_each_other(start: Start) -> None:
    engine = _answers("answer")
    async with start(engine) as quern:
        await quern.client.post("/v1/code/generate", data={"prompt": "first"})
        await quern.client.post("/v1/code/generate", data={"prompt": "first"})
        listed = await quern.client.get("/v1/conversations")
    assert engine.requests[0].prompt == engine.requests[1].prompt
    assert listed.json()["data"] == []


async def test_an_engine_failure_is_a_500_with_the_agreed_prefix_and_the_specific_error(start: Start) -> None:
    async with start(FakeEngine(fail_after=1)) as quern:
        response = await quern.client.post("/v1/code/generate", data={"prompt": "hello"})
    assert response.status_code == 500
    detail = response.json()["detail"]
    assert detail.startswith("服务器内部错误: ")
    assert len(detail) > len("服务器内部错误: ")


async def test_accepting_plain_text_streams_the_answer_without_any_framing(start: Start) -> None:
    async with start(_answers("print('你好')")) as quern:
        response = await quern.client.post(
            "/v1/code/generate", data={"prompt": "hello"}, headers={"accept": "text/plain"}
        )
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "print('你好')"


async def test_a_stop_string_ends_the_answer_before_it(start: Start) -> None:
    async with start(_answers("one two three")) as quern:
        response = await quern.client.post("/v1/code/generate", data={"prompt": "x", "stop": [" three", "never"]})
    assert response.json()["result"] == "one two"


async def test_every_optional_field_reaches_the_engine_and_absent_ones_are_the_defaults(quern: Quern) -> None:
    fields = {
        "max_tokens": "7",
        "temperature": "0.1",
        "top_p": "0.5",
        "top_k": "3",
        "repetition_penalty": "1.2",
        "seed": "42",
    }
    await quern.client.post("/v1/code/generate", data={"prompt": "x", **fields})
    await quern.client.post("/v1/code/generate", data={"prompt": "x"})
    given, default = (request.sampling for request in quern.engine.requests)
    assert (given.max_tokens, given.temperature, given.top_p, given.top_k) == (7, 0.1, 0.5, 3)
    assert (given.repetition_penalty, given.seed) == (1.2, 42)
    assert (default.max_tokens, default.temperature, default.top_p, default.top_k) == (4096, 0.7, 0.8, 20)
    assert (default.repetition_penalty, default.seed) == (1.05, SEED)


async def test_multipart_forms_are_taken_too(quern: Quern) -> None:
    response = await quern.client.post("/v1/code/generate", files={"prompt": (None, "hello")})
    assert response.status_code == 200
