// Model folders in Hugging Face's layout.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "formats/model_file.h"

namespace quern {

// Reads config.json and the headers of model.safetensors, or of the files that model.safetensors.index.json
// names. Throws FileError.
ModelFile open_hugging_face(const std::filesystem::path& folder);

// GGUF's name for a tensor of transformers' Qwen2ForCausalLM, Qwen3ForCausalLM and Qwen3MoeForCausalLM, or of
// Qwen2Model and its like, whose names don't begin with "model."; other names stay what they are.
std::string gguf_name(std::string_view hugging_face_name);

}  // namespace quern
