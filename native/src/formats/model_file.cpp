#include "formats/model_file.h"

#include <stdexcept>
#include <system_error>
#include <utility>

#include "formats/gguf.h"
#include "formats/hugging_face.h"

namespace quern {

ModelFile::ModelFile(std::string path, ModelConfig config, std::vector<InputFile> files, TensorMap tensors)
    : path(std::move(path)),
      config(std::move(config)),
      files_(std::move(files)),
      tensors_(std::move(tensors)) {}

const TensorInfo* ModelFile::find(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

const TensorInfo& ModelFile::at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) {
        throw damaged(path, "it has no tensor " + in_quotes(name));
    }
    return *tensor;
}

void ModelFile::read(const TensorInfo& tensor, uint64_t offset_in_tensor, std::span<std::byte> out) const {
    if (offset_in_tensor > tensor.bytes || out.size() > tensor.bytes - offset_in_tensor) {
        throw std::out_of_range("a read beyond the end of tensor " + tensor.name);
    }
    files_.at(tensor.file).read(tensor.offset + offset_in_tensor, out);
}

uint64_t ModelFile::size() const {
    uint64_t bytes = 0;
    for (const auto& file : files_) {
        bytes += file.size();
    }
    return bytes;
}

ModelFile open_model(const std::filesystem::path& path) {
    std::error_code ignored;  // what can't be inspected is opened as a file, and the error is told there
    return std::filesystem::is_directory(path, ignored) ? open_hugging_face(path) : open_gguf(path);
}

}  // namespace quern
