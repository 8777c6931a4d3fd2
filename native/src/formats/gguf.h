// GGUF files: docs/gguf.md of ggml, versions 2 and 3, little-endian.
#pragma once

#include <filesystem>

#include "formats/model_file.h"

namespace quern {

// Reads the header of a GGUF file, and of its further parts where it is split. Throws FileError.
ModelFile open_gguf(const std::filesystem::path& path);

}  // namespace quern
