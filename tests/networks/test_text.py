"""The text tower in the training graph: equal to the frozen one, its learned vectors, its memory and its refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F

from sagekit import UserError
from sagekit.data.world import CLASS_NAMES
from sagekit.networks import text
from sagekit.networks.text import TextTower

PROMPTS = [f"a photo of a {name}." for name in CLASS_NAMES[:6]]
NAMES = [f"{name}." for name in CLASS_NAMES[:6]]


def test_it_says_what_the_frozen_tower_says(backbone):
    expected = backbone.text_rows([[prompt] for prompt in PROMPTS], shared=True)
    torch.testing.assert_close(F.normalize(TextTower(backbone, PROMPTS)(), dim=-1), expected, atol=1e-6, rtol=1e-6)


def test_vectors_that_are_words_are_those_words(backbone):
    words = backbone.clip.token_embedding(backbone.tokenizer(["a photo of a"]))[0, 1:5]
    tower, whole = TextTower(backbone, NAMES, vectors=4), TextTower(backbone, PROMPTS)
    torch.testing.assert_close(tower(words), whole(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tower(words.expand(6, -1, -1)), whole(), atol=1e-6, rtol=1e-6)  # each class's own


def test_a_class_hangs_on_its_own_vectors_alone(backbone):
    tower = TextTower(backbone, NAMES, vectors=2)
    v = torch.randn(6, 2, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(tower(v)[3].sum(), v)
    assert gradient[3].abs().min() > 0
    assert gradient[[0, 1, 2, 4, 5]].abs().max() == 0


def test_deep_vectors_take_the_places_of_the_first(backbone):
    """With two blocks: whatever the first vectors were after block 1, only the deep ones are left."""
    tower = TextTower(backbone, NAMES, vectors=2)
    one, other, deep = torch.randn(3, 2, 128, generator=torch.Generator().manual_seed(0))
    words = tower(one, [deep])
    assert (words - tower(one)).abs().max() > 0.01
    assert (words - tower(other, [deep])).abs().max() > 1e-4  # the words saw them in block 1
    zeroed = copy.deepcopy(backbone)
    for block in zeroed.clip.transformer.resblocks[:1]:  # where block 1 changes nothing, only the deep ones are left of them
        block.attn.out_proj.weight.data.zero_()
        block.attn.out_proj.bias.data.zero_()
    tower = TextTower(zeroed, NAMES, vectors=2)
    torch.testing.assert_close(tower(one, [deep]), tower(other, [deep]), atol=1e-6, rtol=1e-6)


def test_in_pieces_it_is_the_same_with_its_gradient(backbone, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 4)
    found = []
    for checkpointing in (False, True):
        v = torch.ones(3, 128, dtype=torch.float64, requires_grad=True)
        tower = TextTower(copy.deepcopy(backbone).double(), NAMES, vectors=3, checkpointing=checkpointing)
        out = tower(v)
        out.square().sum().backward()
        found.append((out.detach(), v.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("trained", [False, True])
def test_its_memory_is_what_a_step_keeps(backbone, trained):
    net = copy.deepcopy(backbone)
    net.clip.requires_grad_(trained)
    tower, kept = TextTower(net, NAMES, vectors=4), {}
    weights = {p.untyped_storage().data_ptr() for p in net.clip.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = tower(torch.zeros(4, 128, requires_grad=True))
    assert out.requires_grad
    found = sum(size for place, size in kept.items() if place not in weights)
    assert 0.5 < found / tower.memory() <= 1


def test_what_it_costs_is_said_or_refused(backbone):
    tower = TextTower(backbone, NAMES)
    (line,) = tower.beforehand(10**12)
    assert "the texts of all 6 classes" in line
    with pytest.raises(UserError, match=r"every step encodes .* all 6 classes.* GB are free; --set checkpointing=true"):
        tower.beforehand(1000)
    (line,) = TextTower(backbone, NAMES, checkpointing=True).beforehand(1000)
    assert "64 at a time" in line


def test_prompts_longer_than_the_context_are_refused(backbone):
    TextTower(backbone, NAMES, vectors=12)
    with pytest.raises(UserError, match=r"the prompt '.*' has \d+ tokens or more, and 16 learned vectors.*mini reads 20"):
        TextTower(backbone, PROMPTS, vectors=16)
    with pytest.raises(UserError, match="has 20 tokens or more"):
        TextTower(backbone, [" ".join(["circle"] * 40)])


def test_a_model_without_a_text_tower_is_refused(backbone):
    bare = copy.deepcopy(backbone)
    bare.clip = torch.nn.Identity()
    with pytest.raises(UserError, match=r"mini has no plain CLIP text tower.*choose a CLIP such as ViT-B-16-quickgelu"):
        TextTower(bare, NAMES)


def test_rows_in_the_shared_space_are_what_clip_says(backbone):
    rows = backbone.text_rows([[prompt] for prompt in PROMPTS], shared=True)
    assert rows.shape == (6, 96)
    expected = F.normalize(backbone.clip.encode_text(backbone.tokenizer(PROMPTS)), dim=-1)
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=1e-6)
    back = F.normalize(rows @ backbone.visual.proj.T, dim=-1)
    torch.testing.assert_close(backbone.text_rows([[prompt] for prompt in PROMPTS]), back, atol=1e-6, rtol=1e-6)
