"""Cosines between guidance and tokens, block by block."""

import pytest
import torch
import torch.nn.functional as F
from conftest import shaken, small

from sagekit import UserError, build_model, load_backbone
from sagekit.analyses import alignment

IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NAMES = ["plain circle", "striped star"]


@torch.no_grad()
def test_first_block_by_hand():
    model = shaken(build_model(small(), NAMES, load_backbone(small().network)))
    frame = alignment.cosines(model, IMAGES)
    assert frame["block"].tolist() == [1, 2, 3, 4, 5, 6]
    net, adapter = model.net.backbone, model.net.adapters[0]
    tokens = adapter.norm(net.attend(0, net.embed(IMAGES))).flatten(0, 1)
    f_t = adapter.norm(model.guidance())
    plain = torch.stack([F.cosine_similarity(f_t, t, dim=0) for t in tokens]).mean()
    projected = torch.stack([F.cosine_similarity(adapter.proj(f_t), t, dim=0) for t in tokens]).mean()
    assert frame.iloc[0][["plain", "projected"]].tolist() == pytest.approx([plain.item(), projected.item()])


def test_without_a_projection_both_are_the_same():
    model = build_model(small(gate="text"), NAMES, load_backbone(small().network))
    frame = alignment.cosines(model, IMAGES.float())
    assert frame["plain"].tolist() == pytest.approx(frame["projected"].tolist(), abs=1e-6)


def test_a_planted_alignment(backbone):
    """With the gate turned to what the tokens of a block look like, the projected cosine is near 1 and the plain one is not."""
    model = build_model(small(gate="vector"), NAMES, backbone)
    images = IMAGES[:1].float()
    with torch.no_grad():
        adapter = model.net.adapters[0]
        tokens = adapter.norm(backbone.attend(0, backbone.embed(images)))[0]
        adapter.gate.copy_(F.normalize(tokens, dim=-1).mean(0))
    row = alignment.cosines(model, images).iloc[0]
    assert row["projected"] > row["plain"] + 0.2


def test_lift_has_no_alignment(backbone):
    with pytest.raises(UserError, match="inside SG-Adapters"):
        alignment.cosines(build_model(small("lift"), NAMES, backbone), IMAGES.float())
