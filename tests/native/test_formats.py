"""Model files, read by the native module, against writers and readers that are not ours."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from tests.native import model_files as files
from tests.native.model_files import read_floats, refusal

from quern.engine.cpu import _native

QUANTISED = [
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K,
    Kind.Q6_K, Kind.IQ4_NL,
]  # fmt: skip
ARCHITECTURES = ["qwen2", "qwen3", "qwen3moe"]


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_blocks_are_dequantised_to_the_last_bit_as_ggml_does(kind: Kind, tmp_path: Path) -> None:
    blocks = files.random_blocks(kind, 97, 512, seed=int(kind))
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks.view(np.float32) if kind == Kind.F32 else blocks, kind)
    path = files.write_gguf(tmp_path / "m.gguf", tensors=files.weights(), blocks={"x": (kind, blocks)})
    model = _native.open_model(str(path))
    assert ("x", kind.name, (97, 512)) in model.tensors
    found = read_floats(model, "x")
    assert np.array_equal(found, expected.reshape(97, 512), equal_nan=True)


def test_a_tensor_larger_than_the_read_buffer_is_read_whole(tmp_path: Path) -> None:
    blocks = files.random_blocks(Kind.Q8_0, 3000, 64, seed=1)
    path = files.write_gguf(tmp_path / "m.gguf", blocks={"x": (Kind.Q8_0, blocks)})
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, Kind.Q8_0)
    assert np.array_equal(read_floats(_native.open_model(str(path)), "x"), expected, equal_nan=True)


def test_every_half_comes_back_as_itself() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = halves[~np.isnan(halves)]
    assert [_native.float_to_half(float(x)) for x in numbers] == numbers.view(np.uint16).tolist()


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-4, 1.0, 1e4, 3e4, 1e6])
def test_floats_round_to_the_nearest_half(scale: float) -> None:
    values = (np.random.default_rng(5).normal(size=5000) * scale).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16).tolist()
    assert [_native.float_to_half(float(x)) for x in values] == expected


def test_halfway_between_two_halves_the_even_one_is_taken() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16)
    between = (halves.view(np.float16).astype(np.float32)[:-1] + halves.view(np.float16).astype(np.float32)[1:]) / 2
    assert [_native.float_to_half(float(x)) for x in between] == (halves[:-1] + (halves[:-1] & 1)).tolist()
    assert [_native.float_to_half(x) for x in (65519.0, 65520.0, -math.inf)] == [0x7BFF, 0x7C00, 0xFC00]
    assert np.isnan(np.uint16(_native.float_to_half(math.nan)).view(np.float16))


def test_floats_round_to_the_nearest_bfloat16_and_halfway_to_the_even_one() -> None:
    def as_float(bits: int) -> float:
        return struct.unpack("<f", struct.pack("<I", bits))[0]

    cases = {0x3F800000: 0x3F80, 0x3F808000: 0x3F80, 0x3F808001: 0x3F81, 0x3F818000: 0x3F82, 0x3F817FFF: 0x3F81}
    cases |= {0x7F7FFFFF: 0x7F80, 0xFF800000: 0xFF80, 0x80000001: 0x8000, 0x00018000: 0x0002}
    assert {bits: _native.float_to_bfloat16(as_float(bits)) for bits in cases} == cases
    nan = _native.float_to_bfloat16(math.nan)
    assert nan & 0x7F80 == 0x7F80
    assert nan & 0x7F


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gguf_file_of_each_architecture_opens(architecture: str, tmp_path: Path) -> None:
    weights = files.weights(architecture)
    model = _native.open_model(str(files.write_gguf(tmp_path / "m.gguf", architecture, tensors=weights)))
    model.check_tensors()
    assert {name for name, _, _ in model.tensors} == set(weights)
    assert all(np.array_equal(read_floats(model, name), values) for name, values in weights.items())
    assert model.config["normalize_expert_weights"] == (architecture == "qwen3moe")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_hugging_face_folder_of_each_architecture_opens(
    architecture: str, dtype: str, shards: int, tmp_path: Path
) -> None:
    weights = files.weights(architecture, stacked=False)
    folder = files.write_folder(tmp_path / "m", architecture, tensors=weights, dtype=dtype, shards=shards)
    model = _native.open_model(str(folder))
    model.check_tensors()
    assert {name for name, _, _ in model.tensors} == set(weights)
    assert all(kind == dtype for _, kind, _ in model.tensors)
    assert all(np.array_equal(read_floats(model, name), values) for name, values in weights.items())


def test_both_formats_give_the_same_configuration(tmp_path: Path) -> None:
    for architecture in ARCHITECTURES:
        by_gguf = _native.open_model(str(files.write_gguf(tmp_path / f"{architecture}.gguf", architecture)))
        by_folder = _native.open_model(str(files.write_folder(tmp_path / architecture, architecture)))
        assert by_gguf.config == by_folder.config


def test_a_split_gguf_file_is_read_from_all_its_parts(tmp_path: Path) -> None:
    weights = files.weights()
    files.write_gguf(tmp_path / "m.gguf", tensors=weights, parts_of=10)
    first, second, *_ = parts = sorted(tmp_path.glob("*.gguf"))
    assert first.name == "m-00001-of-00003.gguf"
    model = _native.open_model(str(first))
    model.check_tensors()
    assert all(np.array_equal(read_floats(model, name), values) for name, values in weights.items())
    assert model.size == sum(part.stat().st_size for part in parts)
    assert "it says it is part 2 of 3, and should be part 1" in refusal(second)
    second.unlink()
    assert "m-00002-of-00003.gguf can't be read: No such file" in refusal(first)
    assert "must end with -00001-of-00003.gguf" in refusal(first.rename(tmp_path / "renamed.gguf"))


def test_without_an_output_matrix_the_embedding_is_the_output(tmp_path: Path) -> None:
    weights = files.weights(stacked=False)
    tied = {name: values for name, values in weights.items() if name != "output.weight"}
    models = [
        _native.open_model(str(files.write_gguf(tmp_path / "m.gguf", tensors=tied))),
        _native.open_model(str(files.write_folder(tmp_path / "a", tensors=tied, config={"tie_word_embeddings": True}))),
        _native.open_model(
            str(files.write_folder(tmp_path / "b", tensors=weights, config={"tie_word_embeddings": True}))
        ),
    ]
    for model in models:
        model.check_tensors()
        assert model.config["tied_embeddings"] is True
        assert "output.weight" not in {name for name, _, _ in model.tensors}
    assert 'has no tensor "output.weight"' in refusal(files.write_folder(tmp_path / "c", tensors=tied))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {**YARN, "rope_type": None, "type": "yarn"}},
        {"rope_theta": None, "rope_parameters": {**YARN, "rope_theta": 1e6}},
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"rope_scaling": YARN, "max_position_embeddings": 4096},
    ],
    ids=["rope_scaling", "its older name", "rope_parameters", "both", "the extended context"],
)
def test_yarn_is_read_from_each_way_of_writing_it(rope: dict[str, Any], tmp_path: Path) -> None:
    config = _native.open_model(str(files.write_folder(tmp_path / "m", config=rope))).config
    assert config["rope_base"] == 1e6
    assert config["context_length"] == 4096
    assert config["yarn"] == {
        "factor": 4.0, "original_context": 1024, "beta_fast": 32.0, "beta_slow": 1.0,
        "attention_factor": pytest.approx(0.1 * math.log(4) + 1),
    }  # fmt: skip


def test_yarns_own_settings_are_read_from_both_formats(tmp_path: Path) -> None:
    def settings(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(2.0)
        writer.add_rope_scaling_orig_ctx_len(512)
        writer.add_rope_scaling_yarn_attn_factor(1.5)
        writer.add_rope_scaling_yarn_beta_fast(16.0)
        writer.add_rope_scaling_yarn_beta_slow(2.0)

    rope = {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 512, "attention_factor": 1.5}
    rope |= {"beta_fast": 16, "beta_slow": 2}
    expected = {
        "factor": 2.0, "original_context": 512, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5,
    }  # fmt: skip
    by_gguf = _native.open_model(str(files.write_gguf(tmp_path / "m.gguf", settings=settings)))
    by_folder = _native.open_model(str(files.write_folder(tmp_path / "m", config={"rope_scaling": rope})))
    assert by_gguf.config["yarn"] == by_folder.config["yarn"] == expected


def test_a_head_size_that_config_json_does_not_give_is_what_transformers_takes(tmp_path: Path) -> None:
    sizes = {}
    for architecture in ARCHITECTURES:
        folder = files.write_folder(tmp_path / architecture, architecture, config={"head_dim": None})
        sizes[architecture] = _native.open_model(str(folder)).config["head_dim"]
    by_hidden_size = files.HIDDEN // files.HEADS
    assert sizes == {"qwen2": by_hidden_size, "qwen3": 128, "qwen3moe": by_hidden_size}


def test_expert_weights_are_not_normalised_where_config_json_does_not_say_it(tmp_path: Path) -> None:
    config = _native.open_model(
        str(files.write_folder(tmp_path / "m", "qwen3moe", config={"norm_topk_prob": None}))
    ).config
    assert config["normalize_expert_weights"] is False
