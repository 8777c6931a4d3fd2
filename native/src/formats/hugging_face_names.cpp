#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "formats/hugging_face.h"

namespace quern {
namespace {

using Name = std::pair<std::string_view, std::string_view>;

constexpr std::array<Name, 3> outside_layers{{
    {"embed_tokens.weight", "token_embd.weight"},
    {"norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};

constexpr std::array<Name, 15> inside_layers{{
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
}};

constexpr std::array<Name, 3> inside_experts{{
    {"gate_proj.weight", "ffn_gate."},
    {"up_proj.weight", "ffn_up."},
    {"down_proj.weight", "ffn_down."},
}};

template <size_t count>
std::optional<std::string> look_up(const std::array<Name, count>& names, std::string_view wanted) {
    const auto* found =
        std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.first == wanted; });
    return found == names.end() ? std::nullopt : std::optional(std::string(found->second));
}

struct Numbered {
    std::string number;
    std::string_view rest;
};

// "PREFIX12.rest" as ("12", "rest").
std::optional<Numbered> split(std::string_view name, std::string_view prefix) {
    if (!name.starts_with(prefix)) {
        return std::nullopt;
    }
    name.remove_prefix(prefix.size());
    const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    if (digits == 0 || digits == name.size() || name[digits] != '.') {
        return std::nullopt;
    }
    return Numbered{std::string(name.substr(0, digits)), name.substr(digits + 1)};
}

std::optional<std::string> name_inside_layer(std::string_view name) {
    if (const auto expert = split(name, "mlp.experts.")) {
        const auto matrix = look_up(inside_experts, expert->rest);
        return matrix ? std::optional(*matrix + expert->number + ".weight") : std::nullopt;
    }
    return look_up(inside_layers, name);
}

}  // namespace

std::string gguf_name(std::string_view hugging_face_name) {
    std::string_view name = hugging_face_name;
    if (name.starts_with("model.")) {
        name.remove_prefix(6);
    }
    if (const auto layer = split(name, "layers.")) {
        if (const auto inside = name_inside_layer(layer->rest)) {
            return "blk." + layer->number + "." + *inside;
        }
    }
    return look_up(outside_layers, name).value_or(std::string(hugging_face_name));
}

}  // namespace quern
