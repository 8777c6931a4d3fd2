"""Small GGUF files, written by the `gguf` package: a writer that is not ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf

from quern.prompt.byte_level import ALPHABET
from quern.prompt.template import CHATML

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>", "<tool_call>", "<|fim_prefix|>"]
SPECIAL_TYPES = [3, 3, 3, 3, 4, 4]
MERGES = ["h e", "l l", "he ll", "hell o"]
MERGED = ["he", "ll", "hell", "hello"]
TOKENS = [*ALPHABET, *MERGED, *SPECIAL, "[PAD0]"]
TYPES = [1] * (len(ALPHABET) + len(MERGED)) + SPECIAL_TYPES + [5]
ENDOFTEXT, IM_START, IM_END, FIM_PAD, TOOL_CALL, FIM_PREFIX, UNUSED = range(260, 267)


def write_gguf(
    path: Path,
    *,
    model: str = "gpt2",
    pre: str = "qwen2",
    template: str | None = CHATML,
    tokens: Sequence[str] = TOKENS,
    types: Sequence[int] = TYPES,
    merges: Sequence[str] = MERGES,
    eos: int = IM_END,
    kv_heads: int | Sequence[int] = 2,
    blocks: int = 3,
    architecture: str = "qwen2",
    add: Callable[[gguf.GGUFWriter], None] | None = None,
) -> Path:
    """A model's header without any tensor. `add` adds what else it has."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_context_length(1024)
    writer.add_block_count(blocks)
    writer.add_embedding_length(64)
    writer.add_head_count(8)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    if tokens:
        writer.add_token_list(list(tokens))
        writer.add_token_types(list(types))
    writer.add_token_merges(list(merges))
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(ENDOFTEXT)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)
    if add is not None:
        add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path
