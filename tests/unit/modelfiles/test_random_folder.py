"""The folder of random weights that `bench/gpu_check.sh` has the engines serve is one that Quern reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quern.modelfiles.folder import check_folder, read_folder
from quern.modelfiles.vocabulary import TokenType
from quern.prompt.codec import TextCodec
from quern.types import Message, Role

PROGRAM = Path(__file__).parents[3] / "bench" / "write_random_folder.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "tiny"
    subprocess.run([sys.executable, str(PROGRAM), str(path), "--tiny"], check=True, timeout=120)
    return path


def test_it_is_a_mixture_whose_every_id_is_a_token(folder: Path) -> None:
    check_folder(folder)
    model = read_folder(folder)
    assert (model.facts.architecture, model.facts.quantisation) == ("qwen3moe", "BF16")
    assert len(model.vocabulary.tokens) == len(set(model.vocabulary.tokens)) == model.facts.vocabulary_size
    assert TokenType.UNUSED not in model.vocabulary.types
    assert model.vocabulary.tokens[model.vocabulary.end_ids[0]] == "<|im_end|>"


def test_its_weights_are_as_many_as_its_configuration_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    weights = {name: one for name, one in header.items() if name != "__metadata__"}
    assert max(one["data_offsets"][1] for one in weights.values()) == len(data) - 8 - length
    experts = {name for name in weights if ".experts." in name}
    assert len(experts) == config["num_hidden_layers"] * config["num_experts"] * 3
    gate = weights["model.layers.0.mlp.experts.0.gate_proj.weight"]
    assert gate["shape"] == [config["moe_intermediate_size"], config["hidden_size"]]


def test_text_is_the_same_after_it_was_tokens(folder: Path) -> None:
    codec = TextCodec.load(folder)
    try:
        text = "def sort(values: list[int]) -> list[int]:\n    return sorted(values)  # 排序 é"
        ids = codec.tokenizer.encode(text)
        assert len(ids) < len(text.encode()), "pairs and triples of characters are tokens"
        assert b"".join(codec.tokenizer.token_bytes(token) for token in ids).decode() == text
        assert codec.encode_chat([Message(Role.USER, text)])[0] == codec.facts.vocabulary_size - 293 + 1
    finally:
        codec.close()
