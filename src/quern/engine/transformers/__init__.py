"""Models run by Hugging Face Transformers on any device that PyTorch knows, in a child process from another environment."""
