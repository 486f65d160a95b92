"""LLaVA: which frames, through which preprocessing, with what prompt.

Sources: the model card of xtuner/llava-llama-3-8b-v1_1-transformers (prompt), the chat templates of
Meta-Llama-3-8B-Instruct and llava-hf/llava-1.5-7b-hf (system text), transformers
``LlavaProcessor`` (one ``<image>`` becomes as many placeholders as the image has features) and
``CLIPImageProcessor`` (pixels). The original captioning script showed the middle frame; N frames
are shown as N images, the middles of N equal pieces of the video.

PLLaVA has the same parts and reads its checkpoint through ``LlavaSettings``, too.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.settings import placeholder
from vidcap_cli.checkpoint.tokenizer import read_tokenizer
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.models.vision_config import ClipConfig
from vidcap_cli.processors import Prompt, Size, plain
from vidcap_cli.processors.clip_image import ClipImages, read_clip_images

IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class LlavaSettings:
    """What prompts and preprocessing need of a checkpoint's ``config.json``.

    ``image_token`` is the id that stands where an image's features go. A frame is ``side`` pixels
    square and has ``grid`` x ``grid`` patches; ``with_class`` says that the class token's feature
    is kept beside theirs.
    """

    image_token: int
    side: int
    grid: int
    with_class: bool
    images: ClipImages

    @property
    def features(self) -> int:
        """Features of one frame, and language tokens when nothing pools them."""
        return self.grid**2 + self.with_class

    @classmethod
    def read(cls, folder: Path) -> "LlavaSettings":
        """The settings of ``folder``; raises ModelError when its parts do not fit together."""
        config = read_json(folder / "config.json")
        try:
            tower = ClipConfig.read(config, out=0)
            token = placeholder(config)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        images, side = read_clip_images(folder), tower.side
        # A wide frame and a tall one: what both become is what every frame becomes.
        shapes = {_shape(images, *shape) for shape in [(90, 160), (160, 90)]}
        if shapes != {(side, side)}:
            tall, wide = max(shapes)
            raise ModelError(
                f"{folder}: the vision tower takes {side}x{side} pixels, but "
                f"preprocessor_config.json makes frames of {wide}x{tall}."
            )
        return cls(token, side, tower.grid, tower.with_class, images)


@dataclass(frozen=True, slots=True)
class FrameRule:
    """The middles of ``num_frames`` equal pieces of a video; the middle frame when it is one.

    A video of fewer frames repeats some, so there are always ``num_frames``.
    """

    images: ClipImages
    num_frames: int
    tokens_per_frame: int

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:  # noqa: ARG002
        """Indices to read from ``total`` frames."""
        return (2 * np.arange(self.num_frames, dtype=np.int64) + 1) * total // (2 * self.num_frames)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:  # noqa: ARG002
        """Resize and crop frames ``[T, H, W, 3]`` to the vision tower's square."""
        return self.images.prepare(frames)

    def tokens(self, frames: int, height: int, width: int) -> int:  # noqa: ARG002
        """Language tokens that ``frames`` frames become, whatever their size."""
        return frames * self.tokens_per_frame


def usual_rule() -> FrameRule:
    """The rule of the original's defaults, a frame through CLIP ViT-L/14-336: 24 x 24 features."""
    return FrameRule(ClipImages(), 1, 24**2)


class Llava:
    """The captioner of a LLaVA checkpoint folder."""

    def __init__(self, config: CaptionConfig) -> None:
        folder = Path(config.model)
        self._settings = LlavaSettings.read(folder)
        self._words = Words(folder, self._settings.image_token)
        self._questions = [plain(text, IMAGE) for text in config.questions.values()]
        self._system = plain(config.system_prompt or "", IMAGE)
        self.rule = FrameRule(self._settings.images, config.num_frames, self._settings.features)

    def prompt(self, frames: NDArray[np.uint8], seconds: float | None = None) -> Prompt:
        """Model inputs for prepared frames ``[T, side, side, 3]``, an image each."""
        del seconds
        pixels = self._settings.images.normalise(frames)
        return Prompt(self._ids(self._questions[0], len(frames)), {"pixel_values": pixels})

    def asked(self, prompt: Prompt, question: str) -> Prompt:
        """The same frames, asked another question."""
        frames = len(prompt.vision["pixel_values"])
        return Prompt(self._ids(plain(question, IMAGE), frames), prompt.vision)

    def size(self, frames: NDArray[np.uint8]) -> Size:
        """How large the prompt of prepared frames would be."""
        sequence = self._settings.grid**2 + 1
        tokens = max(len(self._ids(question, len(frames))) for question in self._questions)
        return Size(tokens, len(frames) * sequence, sequence)

    def _ids(self, question: str, frames: int) -> NDArray[np.int64]:
        write = llama3_prompt if self._words.knows("<|start_header_id|>") else vicuna_prompt
        text = write(question, frames, self._system)
        return self._words.ids(text, self._settings.features)

    def smaller(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Half of the frames, the middles of equal pieces; None for a single one, whose size is
        the vision tower's.
        """
        count = len(frames) // 2
        return frames[(2 * np.arange(count) + 1) * len(frames) // (2 * count)] if count else None

    def text(self, ids: list[int]) -> str:
        """The caption that generated token ids spell, special tokens left out."""
        return self._words.text(ids)


class Words:
    """The tokenizer of a checkpoint, and how ``<image>`` in a text becomes placeholders."""

    def __init__(self, folder: Path, image_token: int) -> None:
        self._tokenizer: Tokenizer = read_tokenizer(folder)
        self._image_token = image_token
        if not self.knows(IMAGE):
            # Vocabularies of the language model alone do not have it; its id is then set below.
            self._tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
        self._marker = self._tokenizer.token_to_id(IMAGE)

    def knows(self, token: str) -> bool:
        """Whether ``token`` is one token of the vocabulary."""
        return self._tokenizer.token_to_id(token) is not None

    def ids(self, text: str, features: int) -> NDArray[np.int64]:
        """Token ids ``[n]`` of ``text``, each ``<image>`` as ``features`` placeholders."""
        ids = np.array(self._tokenizer.encode(text, add_special_tokens=True).ids, np.int64)
        here = ids == self._marker
        ids[here] = self._image_token
        return np.repeat(ids, np.where(here, features, 1))

    def text(self, ids: list[int]) -> str:
        """What token ids spell, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()


def llama3_prompt(question: str, images: int, system: str = "") -> str:
    """The chat prompt of Llama 3; the tokenizer puts its beginning-of-text token in front.

    Its template has a system turn only where there is something to say, and trims that.
    """
    places = f"{IMAGE}\n" * images
    turn = f"<|start_header_id|>system<|end_header_id|>\n\n{system.strip()}<|eot_id|>"
    return (
        f"{turn if system else ''}"
        f"<|start_header_id|>user<|end_header_id|>\n\n{places}{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def vicuna_prompt(question: str, images: int, system: str = "") -> str:
    """The chat prompt of LLaVA 1.5, for checkpoints whose vocabulary is not Llama 3's."""
    places = f"{IMAGE}\n" * images
    return f"{system and system + ' '}USER: {places}{question} ASSISTANT:"


def _shape(images: ClipImages, height: int, width: int) -> tuple[int, int]:
    return images.crop or images.resized(height, width)
