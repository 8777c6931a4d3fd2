"""llama.cpp's dialect, for editor plug-ins that were written for its server: infill, completions, what the server
is and does, and tokens as its server and vLLM's tell them.
"""
