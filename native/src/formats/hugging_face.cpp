#include "formats/hugging_face.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "formats/hugging_face_config.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t longest_config = 1 << 20;
constexpr uint64_t longest_index = 1 << 26;
constexpr size_t most_shards = 512;  // each stays open

Json read_json(const fs::path& path, uint64_t most_bytes) {
    try {
        return parse_json(read_text(path, most_bytes));
    } catch (const JsonError& error) {
        throw damaged(path.string(), std::string("it is no JSON: there is ") + error.what());
    }
}

// A name in the index must not lead out of the folder, and becomes part of messages.
bool is_plain_name(const std::string& name) {
    const auto is_plain = [](char character) {
        return character >= 0x20 && character < 0x7f && character != '/' && character != '\\';
    };
    return name.ends_with(".safetensors") && std::all_of(name.begin(), name.end(), is_plain);
}

std::set<std::string> shards_of(const fs::path& index_path) {
    const Json index = read_json(index_path, longest_index);
    const Json* weight_map = index.find("weight_map");
    if (weight_map == nullptr || weight_map->object() == nullptr) {
        throw damaged(index_path.string(), "it has no weight_map");
    }
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : *weight_map->object()) {
        if (shard.text() == nullptr || !is_plain_name(*shard.text())) {
            throw damaged(index_path.string(),
                          "it doesn't say in which .safetensors file of this folder the tensor " +
                              in_quotes(tensor) + " is");
        }
        shards.insert(*shard.text());
    }
    if (shards.empty() || shards.size() > most_shards) {
        throw damaged(index_path.string(), "it names " + std::to_string(shards.size()) + " files, not 1 to " +
                                               std::to_string(most_shards));
    }
    return shards;
}

std::set<std::string> weight_files(const fs::path& folder) {
    const std::string single = "model.safetensors";
    const fs::path index = folder / "model.safetensors.index.json";
    std::error_code ignored;  // what can't be inspected counts as absent
    if (fs::exists(folder / single, ignored)) {
        return {single};
    }
    if (fs::exists(index, ignored)) {
        return shards_of(index);
    }
    throw damaged(folder.string(), "it has neither model.safetensors nor model.safetensors.index.json");
}

// The embedding's name where a network was saved without the head that would draw from it (transformers' Qwen3Model),
// as models for embeddings are. Whatever their config.json says, there is no output matrix then.
constexpr std::string_view name_without_head = "embed_tokens.weight";

// Buffers that old checkpoints carry, and an output matrix that tied embeddings replace.
bool is_superfluous(const TensorInfo& tensor, const ModelConfig& config) {
    return tensor.name.ends_with(".rotary_emb.inv_freq") ||
           (config.tied_embeddings && tensor.name == "lm_head.weight");
}

}  // namespace

ModelFile open_hugging_face(const fs::path& folder) {
    const fs::path config_path = folder / "config.json";
    ModelConfig config = hugging_face_config(read_json(config_path, longest_config), config_path.string());
    std::vector<InputFile> files;
    TensorMap tensors;
    bool without_head = false;
    for (const auto& name : weight_files(folder)) {
        const InputFile& file = files.emplace_back(folder / name);
        std::vector<TensorInfo> found = read_safetensors(file, files.size() - 1);
        std::erase_if(found, [&](const TensorInfo& tensor) { return is_superfluous(tensor, config); });
        for (auto& tensor : found) {
            without_head |= tensor.name == name_without_head;
            tensor.name = gguf_name(tensor.name);
        }
        add_tensors(file.path(), std::move(found), tensors);
    }
    config.tied_embeddings |= without_head && !tensors.contains("output.weight");
    return {folder.string(), std::move(config), std::move(files), std::move(tensors)};
}

}  // namespace quern
