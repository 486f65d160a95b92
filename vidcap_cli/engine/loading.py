"""Loading: from a checkpoint folder to a model on its device, and the memory that is left there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms

from vidcap_cli.checkpoint.files import stored_type
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.shares import WHOLE, Share
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine.memory import check_weights, loading_weights, room
from vidcap_cli.models.device import round_products, select_device
from vidcap_cli.models.model import Model, load_model
from vidcap_cli.number_types import dtype_for


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on ``device``. ``room`` is bytes that prompts may take, None if nobody knows."""

    model: Model
    device: str
    room: int | None


def load(
    config: CaptionConfig, share: Share = WHOLE, join: Callable[[], None] = lambda: None
) -> Loaded:
    """Load the model of ``config``, or this rank's ``share`` of it.

    ``join`` is called once the device is chosen: it connects the ranks that have the others.
    Raises ModelError when the weights do not fit.
    """
    folder = Path(config.model)
    device = select_device(config.device_target, config.memory_limit, compiled=True)
    dtype = dtype_for(config.dtype, stored_type(folder), device, compiled=True)
    round_products(config.dtype, device)
    layout = Layout.read(folder, config.family, config.lora_alpha)
    parameters = layout.parameters(share)
    check_weights(parameters, dtype, config.memory_limit, device, layout.divided(share.of + 1))
    join()
    with loading_weights():
        model = load_model(config, layout, getattr(ms, dtype), share)
    kernels = type(model.decoder.kernels).__name__
    part = "" if share.of == 1 else f", share {share.index + 1} of {share.of}"
    print(f"weights in {dtype} on {device}, {kernels}{part}", flush=True)  # noqa: T201 - rank's log
    return Loaded(model, device, room(config.memory_limit, device))
