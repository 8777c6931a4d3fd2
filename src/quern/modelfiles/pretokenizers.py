"""How text is cut into words before byte-pair merges, by the name in `tokenizer.ggml.pre`.

Source: `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp. Text is never normalised: decomposed characters stay
decomposed, although Hugging Face's Qwen2 tokenizer would compose them (NFC). Every name here is checked against
llama.cpp's own ids; a name that is not here is refused, because a wrong guess would quietly make every answer worse.
"""

from __future__ import annotations

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PATTERNS = {
    "qwen2": (_QWEN2,),
    "qwen35": (_QWEN35,),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
}
"""Each pattern in turn cuts the pieces that the one before it left."""

_HUGGING_FACE_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
HUGGING_FACE_NAMES = {
    _QWEN2.replace(_CONTRACTIONS, _HUGGING_FACE_CONTRACTIONS): "qwen2",
    _QWEN35.replace(_CONTRACTIONS, _HUGGING_FACE_CONTRACTIONS): "qwen35",
}
"""The names of the patterns that `tokenizer.json` spells out: equal but for `'ſ`, which they take for `'s`."""
