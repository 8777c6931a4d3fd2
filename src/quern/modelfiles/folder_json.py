"""The JSON files of a model's folder: their shapes, as far as they matter here, and reading them.

Formats: `PretrainedConfig`, `GenerationConfig` and `PreTrainedTokenizerFast` of Hugging Face Transformers, and the
serialisation of Hugging Face Tokenizers, and `modules.json` of Sentence Transformers. Members that are not named here
are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from quern.errors import ModelCorrupt, ModelLoadError

MOST_BYTES = 64 * 2**20
"""Of one file; the largest, Qwen's `tokenizer.json`, has 11 MB."""

Count = Annotated[int, Field(gt=0, le=2**24)]
"""No model comes near the upper end; what is beyond is damage."""

Layers = Annotated[int, Field(gt=0, le=2**12)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class JsonFile(_Part):
    """A whole file."""


File = TypeVar("File", bound=BaseModel)


class QuantisationConfig(_Part):
    """Present where the weights are quantised already."""

    quant_method: str = "unknown"


class ConfigFile(JsonFile):
    """`config.json`. `dtype` was called `torch_dtype` before version 5 of Transformers."""

    model_type: str
    architectures: list[str] | None = None
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


class SpecialPiece(_Part):
    """A token by its text."""

    id: str


class TemplatePiece(_Part):
    """A token that is put before or after a text, or the text."""

    special: SpecialPiece | None = Field(alias="SpecialToken", default=None)


class PostProcessor(_Part):
    """What is put around a text, `single` of the type `TemplateProcessing`; of the type `Sequence` it is a list."""

    type: str
    single: list[TemplatePiece] = []
    processors: list[PostProcessor] = []


class TokenizerFile(JsonFile):
    """`tokenizer.json`."""

    model: Bpe
    added_tokens: list[IndexedToken] = []
    pre_tokenizer: PreTokenizer | None = None
    post_processor: PostProcessor | None = None


class Module(_Part):
    """A part of what makes an embedding. `type` is a Python class's name with its module."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The class's name."""
        return self.type.rpartition(".")[2]


class ModulesFile(RootModel[list[Module]]):
    """`modules.json`: what makes an embedding, one part after the other."""

    root: list[Module] = []


class PoolingFile(JsonFile):
    """`1_Pooling/config.json`: which hidden states an embedding is made of. Newer files name it, older ones have a flag
    for each way.
    """

    pooling_mode: str | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    @property
    def modes(self) -> set[str]:
        """The ways that are used, by the names of the flags."""
        if self.pooling_mode is not None:
            return {self.pooling_mode}
        flags = {name.removeprefix("pooling_mode_"): value for name, value in self if name != "pooling_mode"}
        return {name for name, value in flags.items() if value}


def read_file(path: Path, shape: type[File]) -> File:
    """Read a file that must be there. Raises ModelLoadError, ModelCorrupt."""
    data = read_bytes(path)
    if data is None:
        raise ModelLoadError(
            f"The model folder {path.parent} has no {path.name}, so the model can't be served. Fetch the whole folder "
            f"again."
        )
    return _parse(path, data, shape)


def read_if_there(path: Path, shape: type[File]) -> File:
    """Read a file that may be missing: then it is as if it were empty. Raises ModelLoadError, ModelCorrupt."""
    data = read_bytes(path)
    return shape() if data is None else _parse(path, data, shape)


def _parse(path: Path, data: bytes, shape: type[File]) -> File:
    try:
        return shape.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f"its value {place} is not as it should be" if place else "it is not the JSON that it should be"
        raise ModelCorrupt(
            f"The file {path} is damaged or of a kind that Quern does not know: {where} ({first['msg']}). Fetch it "
            f"again."
        ) from error


def read_bytes(path: Path) -> bytes | None:
    """A small regular file's bytes; None where there is no such file. Raises ModelLoadError, ModelCorrupt."""
    try:
        if path.exists() and not path.is_file():
            raise ModelLoadError(f"{path} is not a regular file. Fetch the model's folder again.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelLoadError(f"The file {path} can't be read: {error.strerror}. Make it readable.") from error
    if len(data) > MOST_BYTES:
        raise ModelCorrupt(
            f"The file {path} has more than {MOST_BYTES} bytes, so it is not what its name says. Fetch the model's "
            f"folder again."
        )
    return data
