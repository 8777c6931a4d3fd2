"""llama.cpp's dialect, for editor plug-ins that were written for its server: infill, and tokens as its server and
vLLM's tell them.
"""
