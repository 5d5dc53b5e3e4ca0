# Included behind `project()` of llama.cpp when llama-cpp-python is compiled: leaves out the library of helpers for its
# own programs, which nothing here loads. It is more than half of the compiler's work.
set(LLAMA_BUILD_COMMON OFF)
