"""Models run by Hugging Face Transformers on any device of PyTorch's, in a child process from another environment."""
