// The network's configuration from GGUF metadata.
#pragma once

#include "formats/config.h"
#include "formats/gguf_metadata.h"
#include "formats/tensor_info.h"

namespace quern {

// Keys: docs/gguf.md of ggml; meanings and defaults: llama_model_base::load_hparams and models/qwen*.cpp of
// llama.cpp. Throws FileError.
ModelConfig gguf_config(const GgufMetadata& metadata, const TensorMap& tensors);

}  // namespace quern
