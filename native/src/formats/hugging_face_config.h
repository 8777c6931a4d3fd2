// The network's configuration from config.json.
#pragma once

#include <string>

#include "formats/config.h"
#include "formats/json.h"

namespace quern {

// Keys: transformers' Qwen2Config, Qwen3Config, Qwen3MoeConfig and modeling_rope_utils.py, versions 4 and 5.
// `path` is for messages. Throws FileError.
ModelConfig hugging_face_config(const Json& json, const std::string& path);

}  // namespace quern
