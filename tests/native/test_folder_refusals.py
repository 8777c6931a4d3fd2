"""Each thing a Hugging Face folder can have wrong gets its own sentence."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.native import model_files as files
from tests.native.model_files import refusal

from quern.engine.cpu import _native


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"hidden_size": None}, "it has no value hidden_size"),
        ({"hidden_size": "32"}, "its value hidden_size is not a whole number below 4294967296"),
        ({"hidden_size": -1}, "its value hidden_size is not a whole number"),
        ({"hidden_size": 2**32}, "its value hidden_size is not a whole number"),
        ({"hidden_size": 32.5}, "its value hidden_size is not a whole number"),
        ({"rms_norm_eps": 0}, "its norm epsilon is 0, not between"),
        ({"rms_norm_eps": "small"}, "its value rms_norm_eps is not a number"),
        ({"rope_theta": 0.5}, "its RoPE base is 0.5, not between"),
        ({"head_dim": 512}, "its size of an attention head is 512, not between 2 and 256"),
        ({"vocab_size": 47}, '"token_embd.weight" has the shape [48, 32] where its configuration says [47, 32]'),
        ({"tie_word_embeddings": 1}, "its value tie_word_embeddings is not true or false"),
        ({"model_type": 1}, "its value model_type is not a text"),
        ({"hidden_act": "gelu"}, 'its hidden_act is "gelu"; supported is silu'),
        ({"use_sliding_window": True}, "it uses sliding-window attention"),
        ({"quantization_config": {}}, "it is quantised already"),
        ({"rope_scaling": []}, "its value rope_scaling is not an object"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "it has no value factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, "its YaRN factor is 0, not between"),
        ({"rope_scaling": {"rope_type": "llama3"}}, 'its RoPE scaling is of type "llama3"'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2, "truncate": False}}, "with settings that no Qwen model"),
    ],
)
def test_a_config_json_that_can_not_be_is_refused(config: dict[str, object], sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(files.write_folder(tmp_path / "m", config=config))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"num_experts_per_tok": 4}, "its number of experts used is 4, not between 1 and 3"),
        ({"num_experts": 4}, '"blk.0.ffn_gate_inp.weight" has the shape [3, 32] where its configuration says [4, 32]'),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "its number of experts used is 3, not between 1 and 2"),
        ({"mlp_only_layers": [0]}, "some of its layers have no experts"),
        ({"decoder_sparse_step": 2}, "some of its layers have no experts"),
        ({"attention_bias": True}, "its attention has biases"),
    ],
)
def test_a_mixture_of_experts_that_can_not_be_is_refused(
    config: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    assert sentence in refusal(files.write_folder(tmp_path / "m", "qwen3moe", config=config))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "it is no JSON: there is something that is no value at byte 0"),
        ('{"a": 1, "a": 2}', "an object with the same key twice, which ends at byte 16"),
        ('{"a": 1} x', "something after the end of the JSON at byte 9"),
        ('{"a": 1', "no } at byte 7"),
        ('{"a" 1}', "no : at byte 5"),
        ("{a: 1}", 'no " at byte 1'),
        ('{"a": 01}', "no } at byte 7"),
        ('{"a": 1e999}', "a number out of range at byte 11"),
        ('{"a": +1}', "something that is no value at byte 6"),
        ('{"a": 1.}', "something that is no value at byte 8"),
        ('{"a": nul}', "an unknown word at byte 6"),
        ('{"a": "\\x"}', "an unknown escape at byte 8"),
        ('{"a": "\\ud800"}', "half a surrogate pair at byte 13"),
        ('{"a": "\\u12g4"}', "an escape without four hexadecimal digits at byte 9"),
        ('{"a": "b', "a string that doesn't end at byte 8"),
        ('{"a": "b\n"}', "a string that doesn't end at byte 8"),
        ("[" * 100_000, "more than 32 levels of nesting at byte 33"),
        ('{"a":' * 100_000, "more than 32 levels of nesting at byte 165"),
        ("[]", "it has no value model_type"),
        ("x" * (1 << 20) + "x", "it has 1048577 bytes, far more than such a file needs"),
    ],
    ids=lambda value: value[:24],
)
def test_a_config_json_that_is_no_json_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    assert sentence in refusal(tmp_path)


def test_escapes_in_json_mean_what_they_mean_to_python(tmp_path: Path) -> None:
    name = 'a"\\/\b\f\n\r\té€𝄞z'
    folder = files.write_folder(tmp_path, tensors=files.weights() | {name: np.ones((1, 2), dtype=np.float32)})
    assert name in {found for found, _, _ in _native.open_model(str(folder)).tensors}
    raw = (folder / "model.safetensors").read_bytes()
    assert b"\\ud834\\udd1e" in raw


def safetensors_entry(**changes: object) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} | changes}).encode()


OVERLAPPING = json.dumps(
    {
        "x": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]},
        "y": {"dtype": "F16", "shape": [2], "data_offsets": [30, 34]},
    }
).encode()


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (b"[]", "its header is no JSON object"),
        (b"{", 'its header is no JSON: there is no " at byte 1'),
        (b'{"x": 1}', 'the header\'s entry for tensor "x" has no dtype'),
        (safetensors_entry(dtype=1), "has no dtype"),
        (safetensors_entry(dtype="F8_E4M3"), 'its tensor "x" is of type "F8_E4M3"; supported are BF16, F16 and F32'),
        (safetensors_entry(shape="x"), "has no shape"),
        (safetensors_entry(shape=[2, -4]), "has no shape"),
        (safetensors_entry(shape=[2, 2**63]), "has no shape"),
        (safetensors_entry(shape=[2, 2**62, 2**62]), "can't have that many elements"),
        (safetensors_entry(shape=[]), "has 0 dimensions, not 1 to 4"),
        (safetensors_entry(data_offsets=[0]), 'the data_offsets of its tensor "x" don\'t fit its shape [2, 4]'),
        (safetensors_entry(data_offsets=[32, 0]), "don't fit its shape"),
        (safetensors_entry(data_offsets=[0, 31]), "don't fit its shape"),
        (safetensors_entry(data_offsets=[2**63 - 33, 2**63 - 1]), "should be 32 bytes at byte 9223372036854775"),
        (safetensors_entry(data_offsets=[33, 65]), "should be 32 bytes at byte"),
        (OVERLAPPING, 'its tensors "x" and "y" overlap'),
    ],
)
def test_a_safetensors_file_with_a_wrong_header_is_refused(header: bytes, sentence: str, tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    files.write_header(tmp_path / "model.safetensors", header, bytes(64))
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "needs 8 bytes at byte 0, and the file ends after 0"),
        (b"1234567", "needs 8 bytes at byte 0, and the file ends after 7"),
        (struct.pack("<Q", 9) + b"{}", "needs 9 bytes at byte 8, and the file ends after 10"),
        (struct.pack("<Q", 2**64 - 1), "its header can't be 18446744073709551615 bytes long"),
    ],
)
def test_a_safetensors_file_that_is_cut_short_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert sentence in refusal(tmp_path)


def test_a_header_with_more_values_than_any_model_has_is_refused(tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    files.write_header(tmp_path / "model.safetensors", b"[" + b"0," * 2_000_000 + b"0]")
    assert "there is more than 2000000 values at byte" in refusal(tmp_path)


def test_buffers_that_old_checkpoints_carry_are_passed_over(tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, dtype=np.float32)}
    model = _native.open_model(str(files.write_folder(tmp_path, tensors=files.weights() | buffer)))
    model.check_tensors()
    assert len(model.tensors) == len(files.weights())


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/x.safetensors",
        "a\\b.safetensors",
        "model.bin",
        "a\0.safetensors",
        "é.safetensors",
        "",
        3,
    ],
)
def test_an_index_does_not_lead_out_of_its_folder(name: object, tmp_path: Path) -> None:
    files.write_folder(tmp_path, shards=2)
    index = {"weight_map": {"x": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    sentence = 'doesn\'t say in which .safetensors file of this folder the tensor "x" is'
    assert sentence in refusal(tmp_path)


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({}, "it has no weight_map"),
        ({"weight_map": []}, "it has no weight_map"),
        ({"weight_map": {}}, "it names 0 files, not 1 to 512"),
        ({"weight_map": {str(n): f"{n}.safetensors" for n in range(513)}}, "it names 513 files, not 1 to 512"),
        ({"weight_map": {"x": "absent.safetensors"}}, "absent.safetensors can't be read: No such file"),
    ],
)
def test_an_index_that_can_not_be_is_refused(index: dict[str, object], sentence: str, tmp_path: Path) -> None:
    files.write_folder(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sentence in refusal(tmp_path)


def test_two_shards_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    files.write_folder(tmp_path, shards=2)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())
    assert "it has two tensors" in refusal(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    files.write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "it has neither model.safetensors nor model.safetensors.index.json" in refusal(tmp_path)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    assert "can't be read: Invalid argument" in refusal(tmp_path / "m.gguf")
    assert "can't be read: No such file or directory" in refusal(tmp_path / "absent.gguf")
    files.write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").unlink()
    (tmp_path / "folder" / "model.safetensors").mkdir()
    assert "can't be read: Is a directory" in refusal(tmp_path / "folder")
