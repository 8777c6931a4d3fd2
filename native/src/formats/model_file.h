// A model on disk, whichever format it has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/config.h"
#include "formats/input_file.h"
#include "formats/tensor_info.h"

namespace quern {

// A model's configuration and its tensors' places. Tensors have GGUF's names (docs/gguf.md of ggml):
// token_embd.weight, output_norm.weight, output.weight; for layer N blk.N.{attn_norm, attn_q, attn_k, attn_v,
// attn_output, attn_q_norm, attn_k_norm, ffn_norm, ffn_gate, ffn_up, ffn_down, ffn_gate_inp}.weight and
// blk.N.attn_{q, k, v}.bias. Experts are stacked in GGUF files, blk.N.ffn_{gate, up, down}_exps.weight, and
// single in Hugging Face folders: blk.N.ffn_{gate, up, down}.E.weight for expert E.
class ModelFile {
public:
    ModelFile(std::string path, ModelConfig config, std::vector<InputFile> files, TensorMap tensors);
    ModelFile(ModelFile&&) = default;
    ModelFile& operator=(ModelFile&&) = default;

    std::string path;
    ModelConfig config;

    const TensorMap& tensors() const { return tensors_; }

    // The tensor, or nullptr.
    const TensorInfo* find(std::string_view name) const;

    // The tensor; throws FileError.
    const TensorInfo& at(std::string_view name) const;

    // Fills all of `out` with the tensor's bytes from `offset_in_tensor` on. Any thread may call. Throws
    // FileError where the file became shorter, std::out_of_range where the tensor doesn't have these bytes.
    void read(const TensorInfo& tensor, uint64_t offset_in_tensor, std::span<std::byte> out) const;

    // Bytes of all its files with tensors.
    uint64_t size() const;

private:
    std::vector<InputFile> files_;
    TensorMap tensors_;
};

// Opens a GGUF file (the first one, where it is split), or a folder in Hugging Face's layout: config.json
// with model.safetensors or model.safetensors.index.json. Reads headers only. Throws FileError.
ModelFile open_model(const std::filesystem::path& path);

}  // namespace quern
