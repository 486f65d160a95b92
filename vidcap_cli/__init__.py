"""vidcap captions tables of videos with LLaVA, PLLaVA or Qwen2-VL on MindSpore."""

__version__ = "0.1.0"
