"""Whatever is sent for a key: it is somebody's or a 401, and how it is compared tells nothing."""

from __future__ import annotations

import asyncio
import hmac
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quern.access.secrets import ALPHABET, ID_CHARACTERS, SECRET_CHARACTERS, PresentedKey, new_key
from quern.errors import Unauthorized

from .conftest import Connect, Quern, Start
from .raw_sockets import RawClient
from .test_keys import bearer, make, status

FUZZED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = st.from_regex(
    re.compile(rf"quern_[{ALPHABET}]{{{ID_CHARACTERS}}}_[{ALPHABET}]{{{SECRET_CHARACTERS}}}"), fullmatch=True
)
ANYTHING = st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")) | KEYS


@given(ANYTHING)
@example("")
@example("quern_" + "0" * 10 + "_" + "\u0661" * 43)
@example("quern_" + "0" * 10 + "_" + "a" * 43 + "\n")
def test_a_text_is_a_key_only_to_the_letter(text: str) -> None:
    parsed = PresentedKey.parse(text)
    if parsed is not None:
        assert str(parsed) == text
        assert parsed.secret not in repr(parsed)


def test_keys_have_all_of_their_bits() -> None:
    made = [new_key() for _ in range(300)]
    assert all(PresentedKey.parse(str(key)) == key for key in made)
    assert len({key.secret for key in made}) == len({key.id for key in made}) == 300
    for position in range(1, SECRET_CHARACTERS):  # the first digit of so many is not even
        assert len({key.secret[-position] for key in made}) > 45


@pytest.mark.usefixtures("shared")
@FUZZED
@given(st.lists(ANYTHING, max_size=4), st.booleans())
def test_only_a_valid_key_among_what_is_presented_lets_in(others: list[str], with_valid: bool) -> None:
    async def ask() -> None:
        quern, key = SHARED["keys"]
        presented = [*others, key] if with_valid else others
        if with_valid:
            assert quern.authenticate(*presented).name == "anna"
            return
        with pytest.raises(Unauthorized) as refused:
            quern.authenticate(*presented)
        assert key not in str(refused.value)

    asyncio.run(ask())


SHARED: dict[str, Any] = {}


@pytest.fixture
async def shared(quern: Quern) -> None:
    """Keys for the properties, which run no event loop of the application's."""
    SHARED["keys"] = quern.application.keys, await make(quern, "anna")


def spoiled(key: str) -> list[str]:
    """Texts that are nearly a key."""
    swapped = [key[:at] + ("0" if key[at] != "0" else "1") + key[at + 1 :] for at in (0, 5, 6, 15, 16, 17, 40, 59)]
    return [
        *swapped,
        key[:-1],
        key[1:],
        key + "0",
        key + key,
        key.swapcase(),
        key.replace("_", "-"),
        f'"{key}"',
        f"{key},{key}",
        f"{key};",
        f"{key}\x00",
        f"\x00{key}",
        f"{key[:20]} {key[20:]}",
        key.replace("quern_", "quern__"),
        "quern_" + key.split("_")[1] + "_" + "A" * 43,
        "".join(f"%{ord(character):02x}" for character in key),
    ]


@pytest.mark.usefixtures("shared")
async def test_what_is_nearly_a_key_is_none(quern: Quern) -> None:
    key = SHARED["keys"][1]
    for text in spoiled(key):
        with pytest.raises(Unauthorized):
            quern.application.keys.authenticate(text)
    assert quern.application.keys.authenticate(key).name == "anna"


async def refused(client: RawClient, *lines: bytes) -> int:
    head = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    await client.send(head + b"".join(line + b"\r\n" for line in lines) + b"\r\n")
    return (await client.answer("GET")).status


async def test_bytes_of_every_kind_on_the_wire_are_a_401_or_a_400(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        key = (await make(quern, "ben")).encode()
        values = [
            *(bytes([byte]) + key for byte in range(256) if byte not in b"\r\n\t "),
            *(key + bytes([byte]) for byte in range(0, 256, 5) if byte not in b"\r\n\t "),
            b"\xff" * 1000,
            "ключ".encode(),
            "ключ".encode("utf-16"),
            key * 100,
            b"x" * 20_000,
        ]
        for number, value in enumerate(values):
            name = b"X-Api-Key: " if number % 2 else b"Authorization: Bearer "
            code = await refused(await connect(quern), name + value)
            assert code in {400, 401}, value[:80]
        assert await status(quern, bearer(key.decode())) == 200


async def test_headers_in_odd_forms_let_nobody_in_but_who_has_a_key(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        key = (await make(quern, "ben")).encode()
        wrong = b"quern_0123456789_" + b"a" * 43
        let_in = [
            (b"x-api-key: " + key,),
            (b"X-API-KEY:" + key,),
            (b"AUTHORIZATION: BEARER " + key,),
            (b"Authorization:   Bearer    " + key + b"   ",),
            (b"X-Api-Key: " + wrong, b"X-Api-Key: " + key),
            (b"Authorization: Basic eDp5", b"X-Api-Key: " + key),
            (b"Authorization: Bearer " + wrong, b"Authorization: Bearer " + key),
        ]
        for lines in let_in:
            assert await refused(await connect(quern), *lines) == 200, lines
        kept_out = [
            (b"X-Api-Key: " + key[:30], b" " + key[30:]),  # folded, as RFC 9112 forbids
            (b"X-Api-Key: " + wrong + b", " + key,),
            (b"X-Api-Key : " + key,),
            (b" X-Api-Key: " + key,),
            (b"X-Api-Key\x00: " + key,),
            (b"X_Api_Key: " + key,),
            (b"X-Api-Key: " + wrong, b"Cookie: x-api-key=" + key),
            (b"Authorization: " + key,),
            (b"Authorization: Token " + key,),
            (b"Authorization: Bearer=" + key,),
            (b"Authorization: Bearer " + wrong + b" " + key,),
            (b"Authorization: Bearer",),
            (b"Authorization:",),
            (b"X-Api-Key:",),
        ]
        for lines in kept_out:
            assert await refused(await connect(quern), *lines) in {400, 401}, lines


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("kind", ["unknown id", "wrong secret", "nearly right", "right", "revoked", "expired"])
async def test_every_key_of_the_right_form_is_hashed_and_compared_once(
    quern: Quern, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts what takes time, since times on a busy machine prove nothing; `bench/` measures them."""
    keys, key = SHARED["keys"]
    gone, old = await make(quern, "gone"), await make(quern, "old", expires_at="2020-01-01T00:00:00Z")
    await keys.revoke("gone", "local")
    presented = {
        "unknown id": str(new_key()),
        "wrong secret": f"quern_{key.split('_')[1]}_{'a' * 43}",
        "nearly right": key[:-1] + ("0" if key[-1] != "0" else "1"),
        "right": key,
        "revoked": gone,
        "expired": old,
    }[kind]
    compared: list[tuple[int, int]] = []
    hashed: list[int] = []
    compare, digest = hmac.compare_digest, hmac.digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    def counted_digest(*arguments: Any) -> bytes:
        hashed.append(1)
        return digest(*arguments)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    monkeypatch.setattr(hmac, "digest", counted_digest)
    if kind == "right":
        keys.authenticate(presented)
    else:
        with pytest.raises(Unauthorized, match="not known here"):
            keys.authenticate(presented)
    assert compared == [(32, 32)]
    assert hashed == [1]
