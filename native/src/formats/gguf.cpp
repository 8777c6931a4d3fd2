#include "formats/gguf.h"

#include <array>
#include <cstdio>
#include <utility>

#include "formats/gguf_config.h"
#include "formats/gguf_metadata.h"
#include "formats/header_reader.h"

namespace quern {
namespace {

constexpr uint64_t most_entries = 1 << 20;  // more tensors or metadata than any model has by far
constexpr uint64_t longest_tensor_name = 64;
constexpr uint32_t largest_alignment = 1 << 20;
constexpr uint32_t most_parts = 512;  // each stays open

struct Counts {
    uint64_t tensors;
    uint64_t metadata;
};

Counts read_counts(HeaderReader& reader) {
    if (reader.remaining() < 4 || reader.read_text(4) != "GGUF") {
        throw damaged(reader.path(), "it does not begin with GGUF");
    }
    const auto version = reader.read<uint32_t>();
    if (version != 2 && version != 3) {
        throw unsupported(reader.path(), "it is of GGUF version " + std::to_string(version) +
                                             "; supported are versions 2 and 3 in little-endian order");
    }
    const auto tensors = reader.read<uint64_t>();
    const auto metadata = reader.read<uint64_t>();
    if (tensors > most_entries || metadata > most_entries) {
        throw damaged(reader.path(), "it can't have " + std::to_string(tensors) + " tensors and " +
                                         std::to_string(metadata) + " metadata values");
    }
    return {tensors, metadata};
}

std::vector<uint64_t> read_shape(HeaderReader& reader, const std::string& name) {
    const auto dimensions = reader.read<uint32_t>();
    if (dimensions == 0 || dimensions > 4) {
        throw damaged(reader.path(), "its tensor " + in_quotes(name) + " has " + std::to_string(dimensions) +
                                         " dimensions, not 1 to 4");
    }
    std::vector<uint64_t> shape(dimensions);
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) {  // the file has the fastest first
        *size = reader.read<uint64_t>();
    }
    return shape;
}

// The offset is still relative to the data's begin, which is not known yet.
TensorInfo read_tensor(HeaderReader& reader) {
    const auto length = reader.read<uint64_t>();
    if (length == 0 || length > longest_tensor_name) {
        throw damaged(reader.path(), "a tensor's name can't be " + std::to_string(length) + " bytes long");
    }
    TensorInfo tensor;
    tensor.name = reader.read_text(length);
    tensor.shape = read_shape(reader, tensor.name);
    const auto number = reader.read<uint32_t>();
    const auto type = tensor_type(number);
    if (!type) {
        throw unsupported(reader.path(), "its tensor " + in_quotes(tensor.name) + " is of ggml's type " +
                                             std::to_string(number) + ", which this engine doesn't read");
    }
    tensor.type = *type;
    tensor.bytes = byte_count(reader.path(), tensor.name, *type, tensor.shape);
    tensor.offset = reader.read<uint64_t>();
    return tensor;
}

uint64_t data_begin(const HeaderReader& reader, uint32_t alignment) {
    if (alignment == 0 || alignment > largest_alignment || !std::has_single_bit(alignment)) {
        throw damaged(reader.path(), "its alignment can't be " + std::to_string(alignment) + " bytes");
    }
    return (reader.position() + alignment - 1) / alignment * alignment;
}

std::vector<TensorInfo> read_tensors(HeaderReader& reader, uint64_t count, const GgufMetadata& metadata,
                                     const InputFile& file, size_t file_index) {
    std::vector<TensorInfo> tensors;
    for (uint64_t i = 0; i < count; ++i) {
        tensors.push_back(read_tensor(reader));
    }
    const uint32_t alignment = metadata.count("general.alignment").value_or(32);
    const uint64_t begin = data_begin(reader, alignment);
    for (auto& tensor : tensors) {
        if (tensor.offset % alignment != 0 || tensor.offset > file.size()) {
            throw damaged(reader.path(), "its tensor " + in_quotes(tensor.name) + " can't lie at offset " +
                                             std::to_string(tensor.offset));
        }
        tensor.offset += begin;
        tensor.file = file_index;
    }
    check_places(file, begin, tensors);
    return tensors;
}

// llama.cpp's llama_split_path: NAME-00001-of-00003.gguf.
std::string part_ending(uint32_t number, uint32_t parts) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), "-%05u-of-%05u.gguf", number, parts);
    return text.data();
}

// What a further part must be called; FileError where `path` isn't the first part's name.
std::filesystem::path part_path(const std::filesystem::path& path, uint32_t number, uint32_t parts) {
    const std::string ending = part_ending(1, parts);
    const std::string name = path.filename().string();
    if (!name.ends_with(ending)) {
        throw unsupported(path.string(), "it is one of " + std::to_string(parts) +
                                             " parts, and the first one's name must end with " + ending +
                                             ", with the others beside it");
    }
    return path.parent_path() / (name.substr(0, name.size() - ending.size()) + part_ending(number, parts));
}

void check_part(const GgufMetadata& metadata, uint32_t number, uint32_t parts) {
    const uint32_t says_number = metadata.needed_count("split.no");
    const uint32_t says_parts = metadata.needed_count("split.count");
    if (says_number != number - 1 || says_parts != parts || parts > most_parts) {
        throw damaged(metadata.path(), "it says it is part " + std::to_string(uint64_t{says_number} + 1) +
                                           " of " + std::to_string(says_parts) + ", and should be part " +
                                           std::to_string(number) + " of " + std::to_string(parts) +
                                           " (at most " + std::to_string(most_parts) + ")");
    }
}

struct Part {
    GgufMetadata metadata;
    std::vector<TensorInfo> tensors;
};

Part read_part(const InputFile& file, size_t file_index) {
    HeaderReader reader(file);
    const Counts counts = read_counts(reader);
    GgufMetadata metadata(reader, counts.metadata);
    if (const auto architecture = metadata.text("general.architecture")) {
        known_architecture(file.path(), *architecture);  // a better message than one about its tensors' types
    }
    auto tensors = read_tensors(reader, counts.tensors, metadata, file, file_index);
    return {std::move(metadata), std::move(tensors)};
}

}  // namespace

ModelFile open_gguf(const std::filesystem::path& path) {
    std::vector<InputFile> files;
    TensorMap tensors;
    files.emplace_back(path);
    Part first = read_part(files.front(), 0);
    add_tensors(path.string(), std::move(first.tensors), tensors);
    const uint32_t parts = first.metadata.count("split.count").value_or(1);
    if (parts > 1) {
        check_part(first.metadata, 1, parts);
    }
    for (uint32_t number = 2; number <= parts; ++number) {
        files.emplace_back(part_path(path, number, parts));
        Part further = read_part(files.back(), files.size() - 1);
        check_part(further.metadata, number, parts);
        add_tensors(files.back().path(), std::move(further.tensors), tensors);
    }
    ModelConfig config = gguf_config(first.metadata, tensors);
    return {path.string(), std::move(config), std::move(files), std::move(tensors)};
}

}  // namespace quern
