"""The peer ``mindnlp``: the product's reference engine. It also lists the weights of a config."""

from pathlib import Path

from captioning import caption_clips, config, decode_all
from trial import Job, answer

from vidcap_cli.engine import load_engine


def nano(job: Job) -> Job:
    """Nano clips through transformers' ``generate`` on mindnlp."""
    engine = load_engine(config(job, engine="mindnlp", device_target="CPU"))
    return caption_clips(job, lambda prompts: decode_all(engine, prompts))


def shapes(job: Job) -> Job:
    """The shapes of all weights that transformers' model of a ``config.json`` has, by name."""
    import vidcap_cli.engine.reference  # noqa: F401, I001 - mindnlp goes before torch
    import torch
    import transformers

    settings = transformers.AutoConfig.from_pretrained(Path(job["folder"]))
    with torch.device("meta"):
        model = getattr(transformers, settings.architectures[0])(settings)
    found = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    if settings.get_text_config().tie_word_embeddings:
        found.pop("lm_head.weight", None)
    return {"shapes": found}


if __name__ == "__main__":
    answer({"nano": nano, "shapes": shapes})
