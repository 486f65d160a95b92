"""The networks, on MindSpore: kernels, language models and vision towers."""
