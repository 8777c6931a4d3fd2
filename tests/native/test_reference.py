"""The reference is right: llama.cpp says the same, and it agrees with itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf.quants import dequantize

from .llamacpp import differences, greedy
from .random_models import HALF_SCALES, FloatType, Q, encode, small_config, write_gguf, write_safetensors
from .reference import (
    ARCHITECTURES,
    Array,
    Config,
    Reference,
    Yarn,
    causal_attention,
    rope_frequencies,
    rope_table,
    rotate,
    route,
)

YARN = Yarn(factor=4, original_context=1024)


def some_ids(config: Config, count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocabulary, count).tolist()


@pytest.mark.parametrize("yarn", [None, YARN], ids=["rope", "yarn"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_random_model_continues_as_in_llama_cpp(tmp_path: Path, architecture: str, yarn: Yarn | None) -> None:
    """With F32 weights llama.cpp rounds only keys and values, to f16."""
    config = small_config(architecture, head_dim=128 if architecture == "qwen3" else 64, yarn=yarn)
    reference = write_gguf(tmp_path / "model.gguf", config)
    prompt = some_ids(config, 200)
    said = greedy(tmp_path / "model.gguf", prompt, 20)
    apart, same = differences(reference.logits([*prompt, *said.ids[:-1]], last=20), said)
    assert same == 20
    assert np.sqrt(np.mean(np.square(apart))) < 0.02


def test_no_token_sees_a_later_one() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((9, heads, 64)).astype(np.float32) for heads in (4, 2, 2))
    whole = causal_attention(query, key, value)
    np.testing.assert_allclose(whole[:5], causal_attention(query[:5], key[:5], value[:5]), rtol=1e-5, atol=1e-6)
    key[5:], value[5:] = 0, 0
    np.testing.assert_array_equal(whole[:5], causal_attention(query, key, value)[:5])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sequences_do_not_see_each_other(tmp_path: Path, architecture: str) -> None:
    config = small_config(architecture)
    reference = write_gguf(tmp_path / "model.gguf", config)
    sequences = [some_ids(config, count, seed=count) for count in (5, 1, 12)]
    for ids, states in zip(sequences, reference.hidden_states(sequences), strict=True):
        np.testing.assert_allclose(reference.project(states), reference.logits(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_is_read_as_it_was_written(tmp_path: Path, architecture: str) -> None:
    config = small_config(architecture, vocabulary=509, yarn=YARN)
    written = write_gguf(tmp_path / "model.gguf", config, types=[Q.Q4_K, Q.Q6_K, Q.F16, Q.BF16], tied=True)
    ids = some_ids(config, 20)
    for load in (False, True):
        read = Reference.from_gguf(tmp_path / "model.gguf", load=load)
        assert replace(read.config, rope_base=config.rope_base) == config
        np.testing.assert_array_equal(read.logits(ids), written.logits(ids))
    np.testing.assert_allclose(written.logits(ids, last=3), written.logits(ids)[-3:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dtype", "shards"), [("BF16", 1), ("F16", 3), ("F32", 2)])
def test_safetensors_hold_the_weights_of_the_reference(tmp_path: Path, dtype: FloatType, shards: int) -> None:
    """Read back by the format's description, with the names that Transformers gives them."""
    config = small_config("qwen3moe", hidden=96, ffn=32)
    reference = write_safetensors(tmp_path, config, dtype=dtype, shards=shards)
    read: dict[str, Array] = {}
    for path in tmp_path.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        assert header.pop("__metadata__")
        assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - start
        for name, entry in header.items():
            data = content[start:][slice(*entry["data_offsets"])]
            assert entry["dtype"] == dtype
            read[name] = _floats(data, dtype).reshape(entry["shape"])
    for theirs, ours, expert in (
        ("model.embed_tokens.weight", "token_embd.weight", None),
        ("model.layers.1.self_attn.q_norm.weight", "blk.1.attn_q_norm.weight", None),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", None),
        ("model.layers.1.mlp.gate.weight", "blk.1.ffn_gate_inp.weight", None),
        ("model.layers.1.mlp.experts.7.down_proj.weight", "blk.1.ffn_down_exps.weight", 7),
        ("lm_head.weight", "output.weight", None),
    ):
        weights = reference.weights.get(ours) if expert is None else reference.weights.get(ours, expert)
        np.testing.assert_array_equal(read[theirs], weights)
    assert len(read) == 3 + 2 * (9 + 3 * 8)
    if shards > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(read)


def _floats(data: bytes, dtype: FloatType) -> Array:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float16 if dtype == "F16" else np.float32).astype(np.float32)


@pytest.mark.parametrize("kind", HALF_SCALES, ids=lambda kind: kind.name)
def test_random_blocks_are_weights_of_the_wanted_size(kind: Q) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((64, 512)).astype(np.float32)
    values = dequantize(encode(weights, kind, rng), kind)
    assert values.shape == weights.shape
    assert abs(values.mean()) < 0.05
    assert 0.9 < values.std() < 1.1


@pytest.mark.parametrize("yarn", [None, YARN], ids=["rope", "yarn"])
def test_rotated_products_depend_on_the_distance_alone(yarn: Yarn | None) -> None:
    config = small_config("qwen2", yarn=yarn)
    query, key = np.random.default_rng(0).standard_normal((2, 1, 1, 64)).astype(np.float32)

    def product(first: int, second: int) -> float:
        turned = [rotate(part, rope_table(config, np.asarray([at]))) for part, at in ((query, first), (key, second))]
        return float(np.vdot(*turned))

    assert product(7, 3) == pytest.approx(product(1004, 1000), rel=1e-3)
    assert product(7, 3) != pytest.approx(product(7, 4), rel=1e-2)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    """The two ends of the ramp, and the attention factor, by the paper's formulas."""
    plain, one = rope_frequencies(small_config("qwen2", rope_base=1e6))
    stretched, factor = rope_frequencies(small_config("qwen2", rope_base=1e6, yarn=YARN))
    assert one == 1
    assert factor == pytest.approx(0.1 * np.log(4) + 1)
    turns = YARN.original_context * plain / (2 * np.pi)
    np.testing.assert_allclose(stretched[turns > 32], plain[turns > 32])
    np.testing.assert_allclose(stretched[turns < 0.5], plain[turns < 0.5] / 4)
    between = stretched[(turns < 16) & (turns > 2)] / plain[(turns < 16) & (turns > 2)]
    assert np.all((between > 0.25) & (between < 1))


def test_routing_takes_the_likeliest_experts_and_their_shares_sum_to_one() -> None:
    chosen, shares = route(np.log(np.asarray([[1, 4, 2, 3], [5, 1, 1, 3]], np.float32)), 2)
    assert chosen.tolist() == [[1, 3], [0, 3]]
    np.testing.assert_allclose(shares, [[4 / 7, 3 / 7], [5 / 8, 3 / 8]], rtol=1e-6)
