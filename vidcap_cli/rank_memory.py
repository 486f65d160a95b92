"""What memory a rank would take, from ``config.json`` and the longest prompt, without weights."""

from dataclasses import dataclass
from pathlib import Path

from vidcap_cli.checkpoint.files import stored_type
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.config import CaptionConfig
from vidcap_cli.host_memory import available, total
from vidcap_cli.inspect.report import Fact
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.models.decoder_config import cache_length
from vidcap_cli.native import library
from vidcap_cli.number_types import dtype_for
from vidcap_cli.view.words import size

_PROCESS_BYTES = 620_000_000  # of a rank besides its model: MindSpore, graphs (measured on CPU)


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of a rank: its ``weights`` of so many ``item`` bytes, and the ``cache`` of ``tokens``
    keys and values.
    """

    weights: int
    item: int
    cache: int
    tokens: int

    @property
    def whole(self) -> int:
        """All of it."""
        return self.weights + self.cache + _PROCESS_BYTES


def rank_memory(tokens: int, config: CaptionConfig, *, on_cpu: bool) -> RankMemory:
    """What a rank with ``config`` takes for prompts of up to so many ``tokens``."""
    layout = Layout.of_settings(Path(config.model), config.family)
    share = Share(0, config.tensor_parallel)
    device, compiled = "CPU" if on_cpu else "Ascend", config.engine == "graph"
    stored = stored_type(Path(config.model))
    item = 4 if dtype_for(config.dtype, stored, device, compiled=compiled) == "float32" else 2
    weights = layout.parameters(share) * item
    kept = config.slots * cache_length(tokens + config.max_new_tokens)
    # On CPU as rows are, but where these are rounded (``NativeKernels.cache_itemsize``).
    rounded = config.dtype == "bfloat16" and compiled and share.of == 1 and library() is not None
    cache_item = 4 if on_cpu and not rounded else item
    cache = kept * share.config(layout.text).kv_per_token * cache_item
    return RankMemory(weights, item, cache, kept)


def memory_facts(held: RankMemory, *, on_cpu: bool) -> tuple[Fact, ...]:
    """How much that is, beside what is free."""
    free = f", of {size(available())} free here" if on_cpu else ""
    return (
        Fact("weights", f"{size(held.weights)}, {held.item * 8} bits a number", held.weights),
        Fact("keys and values", f"{size(held.cache)} for {held.tokens:,} tokens", held.cache),
        Fact("in all", f"{size(held.whole)}, and what a prompt takes on its way{free}", held.whole),
    )


def short_of_memory(
    held: RankMemory, limit: int | None, cluster: Cluster, *, on_cpu: bool
) -> str | None:
    """What is said where a rank would have less memory than it takes; of a device nobody knows."""
    ranks = cluster.local_worker_num
    if limit is not None:
        most = fits = limit
        whose = f"--memory-limit {size(limit)} allows"
    elif on_cpu:
        most, fits = available() // ranks, min(available(), total() // ranks)
        whose = "there is" if ranks == 1 else f"there is for each of {ranks} ranks"
    else:
        return None
    if held.weights > fits:  # as ``engine.memory`` judges
        return f"the weights alone take more memory than {whose}: the run would be refused"
    if held.whole > most:
        then = "videos would be shown smaller, or the run be refused"
        return f"a rank takes more memory than {whose}: {then}"
    return None
