"""Each thing a GGUF file can have wrong gets its own sentence."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from tests.native import model_files as files
from tests.native.model_files import refusal

from quern.engine.cpu import _native

STRING, ARRAY, UINT32 = 8, 9, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: Iterable[int], *, kind: int = 0, offset: int = 0) -> bytes:
    sizes = list(dims)
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def raw_gguf(tensors: list[bytes], *entries: bytes, version: int = 3) -> bytes:
    """A GGUF file put together by hand, with an architecture and 4096 bytes of zeros for its tensors."""
    values = [entry("general.architecture", STRING, text("qwen2")), *entries]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join(values) + b"".join(tensors)
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(4096)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return entry("x", ARRAY, struct.pack("<IQ", kind, count) + items)


HAND_MADE = {
    "is of GGUF version 1;": raw_gguf([], version=1),
    "is of GGUF version 50331648;": raw_gguf([], version=3 << 24),
    '"x" is of type 13, which can\'t be': raw_gguf([], entry("x", 13, b"")),
    '"x" is of type 9, which can\'t be': raw_gguf([], array(ARRAY, 1, struct.pack("<IQ", ARRAY, 0))),
    '"x" can\'t have 9223372036854775808 items': raw_gguf([], array(UINT32, 2**63)),
    '"x" can\'t have 1000 items': raw_gguf([], array(STRING, 1000)),
    "needs 18446744073709551615 bytes at byte": raw_gguf([], entry("x", STRING, struct.pack("<Q", 2**64 - 1))),
    "a key of its metadata can't be 0 bytes long": raw_gguf([], entry("", UINT32, bytes(4))),
    'the metadata value "x" twice': raw_gguf([], *[entry("x", UINT32, bytes(4))] * 2),
    "alignment can't be 24 bytes": raw_gguf([], entry("general.alignment", UINT32, struct.pack("<I", 24))),
    '"general.alignment" is not a whole number': raw_gguf([], entry("general.alignment", STRING, text("32"))),
    'it has two tensors "x"': raw_gguf([tensor("x", [8]), tensor("x", [8], offset=64)]),
    'tensors "x" and "y" overlap': raw_gguf([tensor("x", [16]), tensor("y", [8], offset=32)]),
    'tensor "x" can\'t lie at offset 8.': raw_gguf([tensor("x", [8], offset=8)]),
    'tensor "x" can\'t lie at offset 18446744073709551584': raw_gguf([tensor("x", [8], offset=2**64 - 32)]),
    'tensor "x" should be 4128 bytes at byte': raw_gguf([tensor("x", [1032])]),
    "of shape [4294967296, 4294967296] can't have that many elements": raw_gguf([tensor("x", [2**32, 2**32])]),
    "of shape [8, 0, 8] can't have that many elements": raw_gguf([tensor("x", [8, 0, 8])]),
    "has 5 dimensions, not 1 to 4": raw_gguf([tensor("x", [1] * 5)]),
    "has 0 dimensions, not 1 to 4": raw_gguf([tensor("x", [])]),
    "aren't whole blocks of 256 elements (Q4_K)": raw_gguf([tensor("x", [128, 2], kind=12)]),
    '"x" is of ggml\'s type 16,': raw_gguf([tensor("x", [256], kind=16)]),
    "a tensor's name can't be 65 bytes long": raw_gguf([tensor("x" * 65, [8])]),
    'tensor "????" of shape': raw_gguf([tensor("\0é\n", [0])]),
    'has no metadata value "qwen2.block_count"': raw_gguf([]),
}


@pytest.mark.parametrize("sentence", HAND_MADE)
def test_a_gguf_file_with_a_wrong_header_is_refused(sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HAND_MADE[sentence])
    assert sentence in refusal(path)


def test_a_gguf_header_that_counts_more_than_any_model_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**40, 7) + bytes(64))
    assert "it can't have 1099511627776 tensors and 7 metadata values" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"GG", b"GGML and more"])
def test_a_file_that_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert "it does not begin with GGUF. Fetch it again." in refusal(path)


def number(key: str, value: int) -> Callable[[gguf.GGUFWriter], None]:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.kv_data[0].pop(f"qwen2.{key}", None)
        writer.add_uint32(f"qwen2.{key}", value)

    return change


def rope_scaling(kind: gguf.RopeScalingType) -> Callable[[gguf.GGUFWriter], None]:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(kind)
        writer.add_rope_scaling_factor(2.0)

    return change


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (number("block_count", 0), "its number of layers is 0, not between 1 and 1024"),
        (number("block_count", 3), 'it has no tensor "blk.2.attn_norm.weight"'),
        (number("block_count", 1), '"blk.1.attn_k.bias", which is no part of a qwen2 model of 1 layers'),
        (number("attention.head_count", 0), "its number of attention heads is 0, not between"),
        (number("attention.head_count_kv", 0), "its number of key-value heads is 0, not between"),
        (number("attention.head_count_kv", 3), "its 4 attention heads can't share 3 key-value heads evenly"),
        (number("embedding_length", 2**31), "its hidden size is 2147483648, not between"),
        (number("embedding_length", 36), "the size of its attention heads, 9, is odd"),
        (number("context_length", 0), "its context length is 0, not between"),
        (number("feed_forward_length", 96), '"blk.0.ffn_gate.weight" has the shape [64, 32] where its config'),
        (number("attention.key_length", 7), "the size of its attention heads, 7, is odd"),
        (number("attention.key_length", 16), '"blk.0.attn_q.weight" has the shape [32, 32] where'),
        (number("attention.value_length", 4), "its attention.value_length is 4, and its attention heads' size"),
        (rope_scaling(gguf.RopeScalingType.LINEAR), 'its RoPE scaling is of type "linear" with settings that no Qwen'),
    ],
)
def test_a_gguf_configuration_that_can_not_be_is_refused(
    settings: Callable[[gguf.GGUFWriter], None], sentence: str, tmp_path: Path
) -> None:
    assert sentence in refusal(files.write_gguf(tmp_path / "m.gguf", settings=settings))


def test_another_architecture_is_refused_with_the_list_of_supported_ones(tmp_path: Path) -> None:
    sentence = 'its architecture is "llama"; supported are qwen2, qwen3, qwen3moe.'
    blocks = {"x": (Kind.IQ2_XXS, files.random_blocks(Kind.IQ2_XXS, 1, 256, seed=0))}
    assert sentence in refusal(files.write_gguf(tmp_path / "m.gguf", "llama", blocks=blocks))
    assert sentence in refusal(files.write_folder(tmp_path / "m", "llama"))


def test_a_tensor_that_the_architecture_does_not_have_is_refused(tmp_path: Path) -> None:
    tensors = files.weights() | {"blk.0.attn_output.bias": np.ones(files.HIDDEN, dtype=np.float32)}
    sentence = 'it has a tensor "blk.0.attn_output.bias", which is no part of a qwen2 model of 2 layers'
    assert sentence in refusal(files.write_gguf(tmp_path / "m.gguf", tensors=tensors))


def test_a_file_that_becomes_shorter_while_it_is_open_gives_a_sentence(tmp_path: Path) -> None:
    path = files.write_gguf(tmp_path / "m.gguf")
    model = _native.open_model(str(path))
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(_native.ModelFileError, match="it became shorter while it was read"):
        [model.read_floats(name) for name, _, _ in model.tensors]


def test_an_unknown_tensor_name_gives_a_sentence(tmp_path: Path) -> None:
    model = _native.open_model(str(files.write_gguf(tmp_path / "m.gguf")))
    with pytest.raises(_native.ModelFileError, match='it has no tensor "nothing"'):
        model.read_floats("nothing")
