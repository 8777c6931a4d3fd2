"""Models with the vocabulary of a GGUF file and a tiny random network, as folders and as files.

A folder's tokenizer is written by the `tokenizers` package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType
from tests.native.random_models import SMALL, write_gguf, write_safetensors
from tests.native.reference import Config, Reference
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from quern.modelfiles.description import ModelDescription
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.vocabulary import TokenType, Vocabulary

END_OF_TEXT = "<|endoftext|>"

# As it stands in the tokenizer.json of every Qwen2.5 and Qwen3 model.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_model_folder(folder: Path, gguf: Path) -> Path:
    """A tiny network with random weights and the vocabulary and chat template of `gguf`."""
    model = read_gguf(gguf)
    write_safetensors(folder, _tiny(model), dtype="F16", tied=True)
    write_text_files(folder, model)
    return folder


def write_embedding_folder(folder: Path, gguf: Path) -> Reference:
    """A small model for embeddings with the vocabulary of `gguf`, as Qwen3-Embedding is published: without a head, and
    with the files of Sentence Transformers.
    """
    model = read_gguf(gguf)
    reference = write_safetensors(folder, _tiny_embedding(model), dtype="BF16", without_head=True)
    write_text_files(folder, model)
    tokenizer = hugging_face_tokenizer(model.vocabulary)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, model.vocabulary.tokens.index(END_OF_TEXT))]
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_lasttoken": True})
    return reference


def write_embedding_file(path: Path, gguf: Path, kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0) -> Reference:
    """Such a model as a GGUF file, as convert_hf_to_gguf.py of llama.cpp writes it."""
    model = read_gguf(gguf)

    def add_vocabulary(writer: GGUFWriter, _: int) -> None:
        _add_tokens(writer, model.vocabulary)
        writer.add_eos_token_id(model.vocabulary.tokens.index(END_OF_TEXT))
        writer.add_add_eos_token(True)
        writer.add_pooling_type(PoolingType.LAST)

    return write_gguf(path, _tiny_embedding(model), types=[kind], tied=True, add_vocabulary=add_vocabulary)


def write_model_file(path: Path, gguf: Path) -> Path:
    """The tiny network with random weights as a GGUF file."""
    model = read_gguf(gguf)

    def add_vocabulary(writer: GGUFWriter, _: int) -> None:
        vocabulary = model.vocabulary
        _add_tokens(writer, vocabulary)
        writer.add_eos_token_id(vocabulary.eos_id or 0)
        writer.add_pad_token_id(vocabulary.padding_id or 0)
        writer.add_add_bos_token(False)
        writer.add_chat_template(model.chat_template)

    write_gguf(path, _tiny(model), types=[GGMLQuantizationType.F16], tied=True, add_vocabulary=add_vocabulary)
    return path


def _add_tokens(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pretokenizer)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])


def _tiny_embedding(model: ModelDescription) -> Config:
    return replace(SMALL, architecture="qwen3", vocabulary=model.facts.vocabulary_size)


def _tiny(model: ModelDescription) -> Config:
    return replace(SMALL, hidden=64, heads=2, kv_heads=1, head_dim=32, ffn=128, vocabulary=model.facts.vocabulary_size)


def write_text_files(folder: Path, model: ModelDescription) -> None:
    """Everything in a model's folder but its `config.json` and its weights."""
    vocabulary = model.vocabulary
    hugging_face_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "chat_template": model.chat_template,
            "bos_token": None,
            "eos_token": vocabulary.text(vocabulary.eos_id),
            "pad_token": {"content": vocabulary.text(vocabulary.padding_id), "lstrip": False, "special": True},
            "auto_map": {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]},
        },
    )
    write_json(folder / "generation_config.json", {"eos_token_id": [vocabulary.eos_id], "do_sample": True})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def hugging_face_tokenizer(vocabulary: Vocabulary, pattern: str = QWEN2_PATTERN) -> tokenizers.Tokenizer:
    """The tokenizer as Qwen publishes it."""
    typed = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    normal = {text: number for number, (text, kind) in enumerate(typed) if kind == TokenType.NORMAL}
    tokenizer = tokenizers.Tokenizer(BPE(vocab=normal, merges=list(vocabulary.merges)))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    to_alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_alphabet])
    special = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    for text, kind in typed:
        if kind in special:
            added = [AddedToken(text, special=special[TokenType(kind)], normalized=False)]
            tokenizer.add_tokens(added)  # pyright: ignore[reportUnknownMemberType]
    return tokenizer
