"""What ranks are told: one frozen dataclass, written as JSON beside the plan.

Options come in two kinds. Those in ``ALTERS_CAPTIONS`` decide what the captions say; an unfinished
run refuses to continue with others. The rest only decide how the work is done and may change from
one attempt to the next.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

DEFAULT_QUESTION = "Describe the video in detail"
# Bytes a decoder needs to work at all: FFmpeg, NumPy and a video of ordinary size.
LEAST_DECODE_MEMORY = 256_000_000

ALTERS_CAPTIONS = (
    "family",
    "model",
    "model_fingerprint",
    "question",
    "max_new_tokens",
    "num_frames",
    "height",
    "width",
    "fps",
    "resize",
    "dtype",
    "pooling_shape",
    "system_prompt",
    "lora_alpha",
    "reader",
)


@dataclass(frozen=True, slots=True)
class CaptionConfig:
    """Everything a rank needs to know besides its rows.

    ``model`` is an absolute folder and ``model_fingerprint`` a digest of what it holds.
    ``num_frames`` belongs to LLaVA and PLLaVA; ``fps`` (frames sampled per second), ``height``,
    ``width`` (pixels) and ``resize`` to Qwen2-VL; ``pooling_shape`` (T-H-W), ``system_prompt`` and
    ``lora_alpha`` to PLLaVA, None for what the model family says. ``slots`` rows are decoded
    together on a rank. ``memory_limit`` is bytes a rank may take, None for what there is; a clip
    too large for it is shrunk or, with ``on_oom`` "empty", left without a caption.
    ``decode_memory`` is bytes that a decoder may take, None for its share of the machine.
    """

    family: str
    model: str
    model_fingerprint: str = ""
    question: str = DEFAULT_QUESTION
    max_new_tokens: int = 200
    num_frames: int = 4
    height: int = 448
    width: int = 672
    fps: float = 4.0
    resize: str = "area"
    pooling_shape: str | None = None
    system_prompt: str | None = None
    lora_alpha: float | None = None
    dtype: str = "auto"
    engine: str = "graph"
    device_target: str = "auto"
    slots: int = 1
    memory_limit: int | None = None
    on_oom: str = "shrink"
    reader: str = "pyav"
    decoders: int = 2
    decode_timeout: float = 60.0
    decode_memory: int | None = None
    flush_seconds: float = 30.0
    part_format: str = "parquet"

    def to_json(self) -> str:
        """The configuration as JSON, fields in order."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "CaptionConfig":
        """The inverse of ``to_json``; keys that this version does not know are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})

    def caption_options(self) -> dict[str, Any]:
        """The options that decide what the captions say."""
        return {name: getattr(self, name) for name in ALTERS_CAPTIONS}
