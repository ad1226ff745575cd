"""The frozen foundation model: one face over any plain ``open_clip`` ViT, the mini CLIP and OpenAI's ViT-B/16 alike, and over
timm's (``timm_vit``), which have no text tower.

One block (Eq 2-4), with pre-LN understood:

    f~ = MSA(LN_1(f)) + f            ``attend``
    f' = MLP(LN_2(f~)) + f~          ``mlp`` returns MLP(LN_2(f~)) alone

The quick GELU x sigmoid(1.702 x) of OpenAI's weights is SiLU(1.702 x) / 1.702: one kernel and one kept tensor in place of three
and two, with 1.702 taken into the weights, which are smaller than the tokens.

The feature is f = LN_post(CLS token) in R^d, before the projection P (d x e) into the shared space. Text features are
mapped back, w = normalise(t P^T), so that classifier, guidance and features share R^d (finding 8). Methods that compare in the
shared space take f P and t as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.prompts import fill
from ..data.views import Interpolation
from ..errors import UserError, nearest
from ..progress import bar
from ..settings import NetworkSettings
from . import mini, pretrained, timm_vit, weights

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

Tokenizer = Callable[[Sequence[str]], Tensor]
QUICK = 1.702
"""The factor in the quick GELU."""
TEXT_STEP = 24
"""Tokens; more than the mini CLIP's 20, whose texts are encoded whole."""


class Backbone(nn.Module):
    """A frozen CLIP: image tokens block by block, text features in R^d, and its pixel normalisation.

    Attributes: ``name``, ``width`` d, ``layers`` L, ``heads`` h, ``image_size`` and ``patch_size`` (pixels), ``patches``
    (tokens but CLS), ``interpolation`` (of test images, as it was trained), ``notes`` (one line each: what had to be assumed
    about its weights, or what they have seen).

    Without a ``tokenizer`` it has no text tower, and raises ``UserError`` where one is needed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, clip: nn.Module, tokenizer: Tokenizer | None, name: str, mean: Sequence[float], std: Sequence[float],
                 interpolation: Interpolation = "bilinear", notes: Sequence[str] = ()) -> None:
        from open_clip.transformer import QuickGELU  # slow to import

        super().__init__()
        self.visual = _plain_vit(clip, name)
        self.clip = clip.eval().requires_grad_(False)
        self.tokenizer: Tokenizer = tokenizer or partial(_no_texts, name)
        self.name = name
        self.interpolation: Interpolation = interpolation
        self.notes = list(notes)
        self.blocks = list(self.visual.transformer.resblocks)
        self.width = self.visual.conv1.out_channels
        self.layers = len(self.blocks)
        self.heads = self.blocks[0].attn.num_heads
        self.image_size = int(self.visual.image_size[0])
        self.patch_size = int(self.visual.patch_size[0])
        self.patches = self.visual.positional_embedding.shape[0] - 1
        self.quick_gelu = isinstance(self.blocks[0].mlp.gelu, QuickGELU)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Backbone:
        """The foundation model is frozen: it stays in evaluation mode."""
        return super().train(False)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or float in 0..1, to the first block's input (B, N, d); token 0 is CLS."""
        pixels = images / 255 if images.dtype == torch.uint8 else images
        return self.visual._embeds((pixels - self.mean) / self.std)

    def attend(self, index: int, tokens: Tensor, cls_only: bool = False) -> Tensor:
        """f~ of block ``index`` for ``tokens`` (B, N, d): (B, N, d), or (B, 1, d) for the CLS token alone."""
        block = self.blocks[index]
        attn = block.attn
        x = block.ln_1(tokens)
        queries = x[:, :1] if cls_only else x
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        d, heads = self.width, attn.num_heads
        if cls_only:
            q = F.linear(queries, weight[:d], bias[:d])
            k, v = F.linear(x, weight[d:], bias[d:]).chunk(2, -1)
        else:
            q, k, v = F.linear(x, weight, bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (heads, d // heads)).transpose(1, 2) for t in (q, k, v))  # (B, h, N, d/h)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, d)
        return (tokens[:, :1] if cls_only else tokens) + attn.out_proj(mixed)

    def attention_weights(self, index: int, tokens: Tensor) -> Tensor:
        """Softmax(Q K^T / sqrt(d_k)) of block ``index`` for ``tokens`` (B, N, d): (B, h, N, N), each row sums to 1."""
        attn, d = self.blocks[index].attn, self.width
        x = self.blocks[index].ln_1(tokens)
        q, k = F.linear(x, attn.in_proj_weight[: 2 * d], attn.in_proj_bias[: 2 * d]).chunk(2, -1)
        q, k = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k))  # (B, h, N, d/h)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)

    def mlp(self, index: int, tokens: Tensor) -> Tensor:
        """MLP(LN_2(f~)) of block ``index``; the shape of ``tokens``, without the residual."""
        block = self.blocks[index]
        if not self.quick_gelu:
            return block.mlp(block.ln_2(tokens))
        into, out = block.mlp.c_fc, block.mlp.c_proj
        hidden = F.linear(block.ln_2(tokens), QUICK * into.weight, QUICK * into.bias)
        hidden = F.silu(hidden, inplace=not hidden.requires_grad)
        return F.linear(hidden, out.weight / QUICK, out.bias)

    def pool(self, tokens: Tensor) -> Tensor:
        """The feature f (B, d): LN_post of the CLS token of the last block's output (B, N, d)."""
        return self.visual.ln_post(tokens[:, 0])

    def features(self, images: Tensor) -> Tensor:
        """The frozen feature f^zs (B, d) of ``images``."""
        tokens = self.embed(images)
        for index in range(self.layers):
            tokens = self.attend(index, tokens, cls_only=index == self.layers - 1)
            tokens = tokens + self.mlp(index, tokens)
        return self.pool(tokens)

    @property
    def projection(self) -> Tensor:
        """P (d, e). Raises ``UserError`` where there is no text tower."""
        return _no_texts(self.name) if self.visual.proj is None else self.visual.proj

    def shared(self, features: Tensor) -> Tensor:
        """f P: features (B, d) in the space (B, e) that CLIP shares with texts."""
        return features @ self.projection

    def text_features(self, class_names: Sequence[str], templates: Sequence[str], normalise_each: bool = True) -> Tensor:
        """``text_rows`` of each class's name in every one of ``templates``."""
        return self.text_rows([fill(templates, name) for name in class_names], normalise_each)

    @torch.no_grad()
    def text_rows(self, sentences: Sequence[Sequence[str]], normalise_each: bool = True, shared: bool = False) -> Tensor:
        """W^zs (C, d): each class's ``sentences`` encoded, normalised, averaged, mapped back by P^T and normalised.

        ``normalise_each=False`` averages the features of the sentences as they are. ``shared`` leaves them in the shared space:
        (C, e).
        """
        rows, projection = [], self.projection
        for own in bar(sentences, what="class texts"):
            tokens = self.tokenizer(list(own)).to(self.mean.device)
            text = _encode_text(self.clip, tokens)
            text = (F.normalize(text, dim=-1) if normalise_each else text).mean(0)
            rows.append(F.normalize(text if shared else text @ projection.T, dim=-1))
        return torch.stack(rows)


def _no_texts(name: str, *_: object) -> NoReturn:
    raise UserError(f"{name} has no text tower, and this method reads the class names; choose another backbone "
                    "(ViT-B-16-quickgelu), or where the method has the setting start, --set start=class_mean.")


def _encode_text(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Text features (n, e) of ``tokens`` (n, length): open_clip's ``encode_text`` without the padding after the longest prompt.

    Where attention is causal and the end-of-text token is pooled, nothing looks at what is left out. The length is rounded up
    to ``TEXT_STEP``.
    """
    from open_clip import CLIP
    from open_clip.transformer import text_global_pool

    if not (isinstance(clip, CLIP) and clip.attn_mask is not None and clip.text_pool_type in ("argmax", "eos")
            and isinstance(clip.text_projection, nn.Parameter)):
        return clip.encode_text(tokens)  # type: ignore[operator]
    longest = int(tokens.ne(0).any(0).nonzero().max()) + 1
    length = min(tokens.shape[1], -(-longest // TEXT_STEP) * TEXT_STEP)
    tokens = tokens[:, :length]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    return text_global_pool(x, tokens, clip.text_pool_type, eos_token_id=clip.text_eos_id) @ clip.text_projection


def _plain_vit(clip: nn.Module, name: str) -> VisionTransformer:
    """The visual tower, or a ``UserError`` that says what about it is not a plain ViT."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    visual = getattr(clip, "visual", None)
    if not isinstance(visual, VisionTransformer):
        raise UserError(f"{name} is not a plain open_clip ViT (its image tower is {type(visual).__name__}); adapters need "
                        "transformer blocks. Try ViT-B-16-quickgelu.")
    block = visual.transformer.resblocks[0]
    odd = [reason for reason, true in {
        "its blocks are of another kind": type(block) is not ResidualAttentionBlock,
        "its blocks have layer scale": not isinstance(getattr(block, "ls_1", nn.Identity()), nn.Identity),
        "it pools by attention": visual.attn_pool is not None,
        "it does not pool the CLS token": visual.pool_type != "tok",
        "its last norm comes after pooling": visual.final_ln_after_pool,
        "it has no projection": visual.proj is None and not isinstance(clip, timm_vit.ImageTower),
        "it drops patches": not isinstance(visual.patch_dropout, nn.Identity),
    }.items() if true]
    if odd:
        raise UserError(f"{name} does not work here: {odd[0]}. Try ViT-B-16-quickgelu.")
    return visual


def load_backbone(settings: NetworkSettings) -> Backbone:
    """The frozen model that ``settings.backbone`` names (mini, open_clip's or timm's name), with the weights of
    ``settings.weights`` or ``settings.pretrained``.

    Of a local file ``pretrained`` says what it is: mean, std, interpolation and activation are those of the tag. ``notes`` say
    what was assumed. Raises ``UserError`` for an unknown name or tag, missing or unfitting weights, the wrong activation, no
    network, or a tower that is no plain ViT.
    """
    name, tag, path = settings.backbone, settings.pretrained, settings.weights
    if name == "mini":
        clip: nn.Module = mini.create()
        path = path or mini.WEIGHTS
        notes = weights.fill(clip, weights.read(path), path, name)
        return Backbone(clip, mini.WordTokenizer(), name, (0.5,) * 3, (0.5,) * 3, "bilinear", notes)
    import open_clip  # slow to import

    if name.startswith(timm_vit.PREFIX) and name not in open_clip.list_models():
        tower, how, notes = timm_vit.load(settings)
        return Backbone(tower, None, name, how["mean"], how["std"], how["interpolation"], notes)
    if name not in open_clip.list_models():
        raise UserError(f"open_clip has no model '{name}'.{nearest(name, open_clip.list_models())}")
    if isinstance(open_clip.get_model_config(name)["vision_cfg"].get("layers"), list):  # said before its tag and GELU
        raise UserError(f"{name} is a CLIP with a ResNet as its image tower, which has no transformer blocks or CLS token for "
                        "what is trained here; use a ViT such as ViT-B-16-quickgelu.")
    random = tag == "random" and path is None
    look = {} if random or (path is not None and not tag) else pretrained.look(name, tag)
    clip = _fresh(name)
    _plain_vit(clip, name)  # before anything is downloaded
    notes = ["the weights are random (pretrained=random)."] if random else []
    if not random:
        file = path or pretrained.fetch(name, tag, look)
        found = weights.read(file)
        notes = [] if path is None else pretrained.assumed(path, name, tag, look, found.form)
        notes += weights.fill(clip, found, file, name)
    mean, std = look.get("mean", open_clip.OPENAI_DATASET_MEAN), look.get("std", open_clip.OPENAI_DATASET_STD)
    return Backbone(clip, open_clip.get_tokenizer(name), name, mean, std, look.get("interpolation", "bicubic"), notes)


def _fresh(name: str) -> nn.Module:
    """open_clip's model with random weights: the same ones whenever a run is opened again."""
    import open_clip

    with torch.random.fork_rng(devices=[]), pretrained.quiet():
        torch.manual_seed(0)
        try:
            return open_clip.create_model(name, load_weights=False, pretrained_text=False)
        except (OSError, RuntimeError, ValueError, ImportError) as error:  # a text tower of a package that is not there
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise UserError(f"{name} cannot be built here ({reason}). Try ViT-B-16-quickgelu.") from None
