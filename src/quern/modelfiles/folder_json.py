"""The JSON files of a model's folder, as far as they are read here.

Formats: `PretrainedConfig`, `GenerationConfig` and `PreTrainedTokenizerFast` of Hugging Face Transformers, and the
serialisation of Hugging Face Tokenizers. Members that are not named here are ignored.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0, le=2**24)]
"""No model comes near the upper end; what is beyond is damage."""

Layers = Annotated[int, Field(gt=0, le=2**12)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class JsonFile(_Part):
    """A whole file."""


class QuantisationConfig(_Part):
    """Present where the weights are quantised already."""

    quant_method: str = "unknown"


class ConfigFile(JsonFile):
    """`config.json`. `dtype` was called `torch_dtype` before version 5 of Transformers."""

    model_type: str
    num_hidden_layers: Layers
    hidden_size: Count
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    vocab_size: Count
    max_position_embeddings: Count
    dtype: str | None = None
    torch_dtype: str | None = None
    quantization_config: QuantisationConfig | None = None
    eos_token_id: int | list[int] | None = None


class GenerationConfigFile(JsonFile):
    """`generation_config.json`: which tokens end an answer."""

    eos_token_id: int | list[int] | None = None


class AddedToken(_Part):
    """A token beside the vocabulary of the BPE, as `tokenizer_config.json` names it."""

    content: str


class NamedTemplate(_Part):
    """One of several chat templates."""

    name: str
    template: str


class TokenizerConfigFile(JsonFile):
    """`tokenizer_config.json`: the roles of special tokens, and the chat template."""

    chat_template: str | list[NamedTemplate] | None = None
    bos_token: str | AddedToken | None = None
    eos_token: str | AddedToken | None = None
    pad_token: str | AddedToken | None = None


class IndexedToken(AddedToken):
    """A token beside the vocabulary of the BPE, with its id. Those that are not `special` are text."""

    id: int
    special: bool = False


class Bpe(_Part):
    """`model`: ids by text, and pairs of texts in order of rank."""

    type: str = "BPE"
    vocab: dict[str, int]
    merges: list[str | Annotated[tuple[str, str], Field(strict=False)]]
    ignore_merges: bool = False
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class Pattern(_Part):
    """What a `Split` splits at."""

    regex: str = Field(alias="Regex", default="")


class PreTokenizer(_Part):
    """How text is cut before the BPE; of the type `Sequence` it is a list."""

    type: str
    pretokenizers: list[PreTokenizer] = []
    pattern: Pattern | None = None


class TokenizerFile(JsonFile):
    """`tokenizer.json`."""

    model: Bpe
    added_tokens: list[IndexedToken] = []
    pre_tokenizer: PreTokenizer | None = None
