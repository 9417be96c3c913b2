import pytest
import torch

from samzoo.sam import SamConfig


@pytest.fixture
def small():
    """A SAM of a few thousand parameters whose windows need padding."""
    return SamConfig(
        image_size=80,
        patch_size=16,
        embed_dim=32,
        depth=3,
        num_heads=2,
        global_attn_indexes=(1,),
        window_size=3,
        prompt_embed_dim=32,
        mask_in_chans=8,
        decoder_mlp_dim=32,
        decoder_num_heads=2,
        iou_head_hidden_dim=16,
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty $SAMZOO_HOME."""
    monkeypatch.setenv("SAMZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
