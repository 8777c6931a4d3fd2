"""How weights are stored: the names of quantisations, as llama.cpp has them, and the bits that they take."""

from __future__ import annotations

LLAMA_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
"""`general.file_type` of a GGUF file: llama.cpp's `llama_ftype`, without its prefix."""

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""`dtype` of a `config.json` to the same names."""

FLOAT_BITS = {"F32": 32, "F16": 16, "BF16": 16}
"""Those that are floats: bits of one weight."""
