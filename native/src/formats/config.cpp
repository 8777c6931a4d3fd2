#include "formats/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "formats/file_error.h"

namespace quern {
namespace {

constexpr std::array<std::string_view, 3> architectures{"qwen2", "qwen3", "qwen3moe"};

struct Range {
    const char* what;
    double value;
    double least;
    double most;
};

std::string number_text(double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.10g", value);
    return text.data();
}

// Written so that NaN is out of every range.
void check_range(const Range& range, const std::string& path) {
    if (!(range.value >= range.least && range.value <= range.most)) {
        throw damaged(path, std::string("its ") + range.what + " is " + number_text(range.value) +
                                ", not between " + number_text(range.least) + " and " +
                                number_text(range.most));
    }
}

// The bounds are an order of magnitude beyond the largest published models: they keep products of two or
// three of these values far from overflow.
void check_ranges(const ModelConfig& config, const std::string& path) {
    const std::array<Range, 9> dense{{
        {"number of layers", double(config.layers), 1, 1024},
        {"hidden size", double(config.hidden), 1, 1 << 17},
        {"number of attention heads", double(config.heads), 1, 1024},
        {"number of key-value heads", double(config.kv_heads), 1, 1024},
        {"size of an attention head", double(config.head_dim), 2, 256},
        {"vocabulary size", double(config.vocabulary), 1, 1 << 22},
        {"context length", double(config.context_length), 1, 1 << 26},
        {"norm epsilon", config.norm_epsilon, 1e-12, 0.1},
        {"RoPE base", config.rope_base, 1, 1e12},
    }};
    for (const auto& range : dense) {
        check_range(range, path);
    }
    if (!config.has_experts()) {
        return check_range({"feed-forward size", double(config.ffn), 1, 1 << 20}, path);
    }
    check_range({"number of experts", double(config.experts), 1, 4096}, path);
    check_range({"number of experts used", double(config.experts_used), 1, double(config.experts)}, path);
    check_range({"expert feed-forward size", double(config.expert_ffn), 1, 1 << 20}, path);
}

void check_yarn(const Yarn& yarn, const std::string& path) {
    check_range({"YaRN factor", yarn.factor, 1, 1024}, path);
    check_range({"YaRN original context length", double(yarn.original_context), 1, 1 << 26}, path);
    check_range({"YaRN attention factor", yarn.attention_factor, 1e-3, 1e3}, path);
    check_range({"YaRN beta_slow", yarn.beta_slow, 1e-3, 1e3}, path);
    check_range({"YaRN beta_fast", yarn.beta_fast, yarn.beta_slow, 1e6}, path);
}

}  // namespace

std::span<const std::string_view> supported_architectures() {
    return architectures;
}

std::string known_architecture(const std::string& path, std::string_view name_in_file) {
    const std::string_view name = name_in_file == "qwen3_moe" ? "qwen3moe" : name_in_file;
    if (std::find(architectures.begin(), architectures.end(), name) != architectures.end()) {
        return std::string(name);
    }
    std::string list;
    for (const auto& supported : architectures) {
        list += (list.empty() ? "" : ", ") + std::string(supported);
    }
    throw unsupported(path, "its architecture is " + in_quotes(name_in_file) + "; supported are " + list);
}

float yarn_attention_factor(float factor) {
    return 0.1f * std::log(factor) + 1.0f;
}

void finish_config(ModelConfig& config, const std::string& path) {
    if (config.head_dim == 0 && config.heads != 0) {
        config.head_dim = config.hidden / config.heads;
    }
    if (config.yarn) {
        check_yarn(*config.yarn, path);
        // Files keep the context before or after the extension, depending on who wrote them.
        const double extended = double(config.yarn->factor) * double(config.yarn->original_context);
        const double longest = std::max(double(config.context_length), extended);
        check_range({"context length", longest, 1, 1 << 26}, path);
        config.context_length = static_cast<uint32_t>(longest);
    }
    check_ranges(config, path);
    if (config.head_dim % 2 != 0) {
        throw damaged(path,
                      "the size of its attention heads, " + std::to_string(config.head_dim) + ", is odd");
    }
    if (config.heads % config.kv_heads != 0) {
        throw damaged(path, "its " + std::to_string(config.heads) + " attention heads can't share " +
                                std::to_string(config.kv_heads) + " key-value heads evenly");
    }
}

}  // namespace quern
