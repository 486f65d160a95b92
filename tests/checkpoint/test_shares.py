"""Shares of a model: nothing of a weight is left out, and none is kept twice without need."""

from math import prod

import numpy as np
import pytest

from tests.helpers.commands import vidcap
from tests.helpers.tiny import TinyQwen2VL, write_qwen2vl
from tests.helpers.tiny_llava import TinyPllava, write_llava
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.shares import Share, divides, ways
from vidcap_cli.errors import ModelError
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.vision_config import ClipConfig, Qwen2VLVisionConfig, Qwen25VLVisionConfig


def qwen(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict:
    return {
        "model_type": "qwen2_vl",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": layers == 28 and hidden == 1536,
    }


# The sizes in the config.json of Qwen/Qwen2-VL-*-Instruct.
QWEN_2B = DecoderConfig.read(qwen(1536, 8960, 28, 12, 2, 151936))
QWEN_7B = DecoderConfig.read(qwen(3584, 18944, 28, 28, 4, 152064))
QWEN_72B = DecoderConfig.read(qwen(8192, 29568, 80, 64, 8, 152064))


@pytest.mark.parametrize(
    ("config", "ranks"),
    [(QWEN_2B, 4), (QWEN_7B, 4), *((QWEN_72B, ranks) for ranks in (1, 2, 4, 8, 16))],
)
def test_every_number_of_the_true_sizes_is_in_a_share(config, ranks):
    """Each once, but for keys and values that fewer heads have than there are ranks, and norms."""
    shares = [Share(index, ranks) for index in range(ranks)]
    more = max(ranks // config.kv_heads, 1)
    for name, shape in config.shapes().items():
        slices = [share.slices(config, name) for share in shares]
        axis = len(slices[0]) - 1
        kept = np.zeros(shape[axis], np.int64)
        for some in slices:
            assert some[:axis] == (slice(None),) * axis
            kept[some[axis]] += 1
        times = ranks if name.endswith("norm.weight") else 1
        times = more if name.split(".")[-2] in ("k_proj", "v_proj") else times
        assert (kept == times).all(), name


def test_a_share_of_the_largest_model_is_its_part_of_the_numbers():
    whole = sum(map(prod, QWEN_72B.shapes().values()))
    assert Share().parameters(QWEN_72B) == whole == 72_706_203_648
    for ranks in (2, 4, 8):
        assert Share(ranks - 1, ranks).parameters(QWEN_72B) * ranks == pytest.approx(
            whole, 2e-4
        )  # norms are whole


def test_how_many_ranks_can_share_a_model():
    assert ways(QWEN_2B) == [1, 2, 4, 6, 12]
    assert ways(QWEN_7B) == [1, 2, 4, 28]
    assert ways(QWEN_72B) == [1, 2, 4, 8, 16, 32, 64]
    assert not divides(QWEN_7B, 8)
    with pytest.raises(ModelError, match=r"--tensor-parallel 8 .* 28 heads .* 1 or 2 or 4 or 28"):
        Share(0, 8).config(QWEN_7B)


TOWERS = [
    Qwen2VLVisionConfig.read({"vision_config": {}}, 8192),
    Qwen25VLVisionConfig.read({"vision_config": {"hidden_size": 1280}}, 2048),
    ClipConfig.read({}, 4096),
]


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: type(tower).__name__)
def test_every_number_of_a_true_tower_is_in_a_share(tower, ranks):
    """The layers' products are divided; what is added after a sum is added once."""
    shares = [Share(index, ranks) for index in range(ranks)]
    assert all(share.of_tower(tower) == share for share in shares)
    one_layer = {name: it for name, it in tower.shapes().items() if "s.0." in name}
    divided = [name for name in one_layer if "norm" not in name]
    assert len(divided) >= 8
    for name, shape in one_layer.items():
        weight = np.arange(1, prod(shape) + 1, dtype=np.int32).reshape(shape)
        parts = [share.tower_part(tower, name, weight) for share in shares]
        times = np.bincount(np.concatenate([part.ravel() for part in parts]))[1:]
        assert (times == (1 if name in divided else ranks)).all(), name
    whole, most = Share().tower_parameters(tower), shares[-1].tower_parameters(tower)
    assert whole == sum(map(prod, tower.shapes().values()))
    assert whole / ranks < most < whole / ranks + 0.15 * whole


def test_a_tower_whose_heads_do_not_divide_is_whole():
    tower = TOWERS[0]
    assert Share(1, 6).of_tower(tower) == Share()
    assert Share(1, 6).tower_parameters(tower) == Share().tower_parameters(tower)


@pytest.mark.parametrize("family", ["qwen2vl", "pllava"])
def test_a_share_is_read_as_the_whole_is_cut(tmp_path, family):
    """From the files, the rows alone where they lie together; LoRA is merged the same."""
    if family == "qwen2vl":
        write_qwen2vl(tmp_path, TinyQwen2VL(seed=3, shards=2, dtype="BF16", mlp=90))
    else:
        write_llava(tmp_path, TinyPllava(seed=3, lora="plain"))
    layout = Layout.read(tmp_path, family)
    for share in (Share(0, 2), Share(1, 2)):
        for name in layout.text.shapes():
            cut = layout.text_weight(name)[share.slices(layout.text, name)]
            assert np.array_equal(layout.text_weight(name, share), cut), name
    assert layout.divided(2)[2] == layout.parameters(Share(1, 2)) < layout.parameters()


def test_a_model_with_heads_that_do_not_divide_is_refused_beforehand(tmp_path):
    model = write_qwen2vl(tmp_path / "model", TinyQwen2VL(seed=3))
    (tmp_path / "meta.csv").write_text("path\nclip.mp4\n")
    command = ("qwen2vl", "meta.csv", "--model", model, "--tensor-parallel")
    code, _, told = vidcap(*command, 4, cwd=tmp_path)
    assert code == 2
    assert "--tensor-parallel 4 does not divide the 6 heads" in " ".join(told.split())
    code, _, told = vidcap(*command, 2, "--worker-num", 3, cwd=tmp_path)
    assert code == 2
    assert "--worker-num 3 is no multiple of --tensor-parallel 2" in " ".join(told.split())
    code, _, told = vidcap(*command, 2, "--engine", "mindnlp", cwd=tmp_path)
    assert code == 2
    assert not list(tmp_path.glob("*.vidcap"))
