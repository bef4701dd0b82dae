"""FLUX on one page: from a prompt to a picture, every equation in the open.

    python microflux.py "a 3d fox on a blue background" --seed 0 --out fox.png

The tiny FLUX of this repository, read from flux_edu/weights/tiny and computed with
plain PyTorch. Nothing is imported from the package; numbers in brackets are those of
its equations, and a test holds the two equal. W is a dictionary: name → weights.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

FOLDER = Path(__file__).parent / "flux_edu" / "weights" / "tiny"
HEADS, TEXT_HEADS = 5, 4  # of the network and of both text encoders, 64 channels each
TEXT_LENGTH = 32  # tokens; shorter prompts are padded
AXES = (8, 28, 28)  # channels of a head that turn with picture, row and column
SCALE, SHIFT = 0.66696, 0.05045  # bring latents to mean 0 and deviation 1


def load(name):
    """The tensors of a file. Matrices are 8-bit integers with one scale a row."""
    W = load_file(FOLDER / f"{name}.safetensors")
    names = [key for key in W if not key.endswith("::row_scale")]
    return {key: W[key].float() * W.get(f"{key}::row_scale", 1) for key in names}


def add_delta(W, delta):
    """W' = W + B A for layers that a low-rank delta changes; the rest comes whole."""
    for key, x in delta.items():
        if key.endswith(".lora_A.weight"):
            B = delta[key.replace("lora_A", "lora_B")]
            W[key.replace(".lora_A", "")] += B @ x
        elif ".lora_" not in key:
            W[key] = x
    return W


def linear(W, name, x):
    """W x + c; some layers have no c."""
    return F.linear(x, W[name + ".weight"], W.get(name + ".bias"))


def rms_norm(x, scale):
    """x / √(mean x² + 1e-6), then a scale a channel."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale


def layer_norm(W, name, x):
    """To mean 0 and variance 1, then a scale and a shift a channel."""
    return F.layer_norm(x, x.shape[-1:], W[name + ".weight"], W[name + ".bias"])


def split_heads(x, heads):
    """Tokens "L heads·K" → heads of tokens "heads L K"."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


# ---------------------------------------------------------------- the prompt


def tokenize(prompt):
    """Numbers of the prompt's tokens, the end-of-text token last, padded with 0."""
    ids = Tokenizer.from_file(str(FOLDER / "tokenizer.json")).encode(prompt).ids
    if len(ids) > TEXT_LENGTH:
        ids = ids[: TEXT_LENGTH - 1] + ids[-1:]
    return torch.tensor(ids + [0] * (TEXT_LENGTH - len(ids)))


def t5_bias(W):
    """What T5 adds to the score of two tokens by their distance, "heads L L"."""
    place = torch.arange(TEXT_LENGTH)
    offset = place[None, :] - place[:, None]
    near = offset.abs()
    far = 8 + (torch.log(near.clamp(min=1) / 8) / math.log(128 / 8) * 8).long()
    bucket = torch.where(near < 8, near, far.clamp(max=15)) + 16 * (offset > 0)
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return W[name][bucket].permute(2, 0, 1)


def t5(W, ids):
    """(7.1): txt, one state a token."""
    x = W["shared.weight"][ids]
    bias = t5_bias(W)
    for i in range(3):
        block = f"encoder.block.{i}.layer"
        h = rms_norm(x, W[f"{block}.0.layer_norm.weight"])
        attn = f"{block}.0.SelfAttention"
        qkv = (linear(W, f"{attn}.{part}", h) for part in "qkv")
        q, k, v = (split_heads(x, TEXT_HEADS) for x in qkv)
        A = (q @ k.mT + bias).softmax(-1) @ v  # T5 divides by no √d
        x = x + linear(W, f"{attn}.o", A.transpose(0, 1).flatten(1))
        h = rms_norm(x, W[f"{block}.1.layer_norm.weight"])
        mlp = f"{block}.1.DenseReluDense"
        gate = F.gelu(linear(W, f"{mlp}.wi_0", h), approximate="tanh")
        x = x + linear(W, f"{mlp}.wo", gate * linear(W, f"{mlp}.wi_1", h))
    return rms_norm(x, W["encoder.final_layer_norm.weight"])


def clip(W, ids):
    """(7.2): y, the state at the first end-of-text token."""
    embedding = W["embeddings.token_embedding.weight"]
    x = embedding[ids] + W["embeddings.position_embedding.weight"]
    for i in range(2):
        layer = f"encoder.layers.{i}"
        h = layer_norm(W, f"{layer}.layer_norm1", x)
        attn = f"{layer}.self_attn"
        qkv = (linear(W, f"{attn}.{part}_proj", h) for part in "qkv")
        q, k, v = (split_heads(x, TEXT_HEADS) for x in qkv)
        A = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(W, f"{attn}.out_proj", A.transpose(0, 1).flatten(1))
        h = linear(W, f"{layer}.mlp.fc1", layer_norm(W, f"{layer}.layer_norm2", x))
        x = x + linear(W, f"{layer}.mlp.fc2", h * torch.sigmoid(1.702 * h))
    end = (ids == 1).int().argmax()
    return layer_norm(W, "final_layer_norm", x)[end]


# ---------------------------------------------------------------- schedule and tokens


def time_shift(mu, t):
    """(1.3) with σ = 1: the odds t / (1 - t) times e^μ."""
    return math.exp(mu) * t / (math.exp(mu) * t + 1 - t)


def get_schedule(steps, L, shift):
    """(1.5): N + 1 noise levels from 1 to 0, moved up for large pictures."""
    t = [1 - i / steps for i in range(steps + 1)]
    m = (1.15 - 0.5) / (4096 - 256)
    mu = 0.5 + m * (L - 256)  # Eq. (1.2)
    return [time_shift(mu, t_i) for t_i in t] if shift else t


def patchify(z):
    """(2.2): "c (h 2) (w 2)" → "(h w) (c 2 2)"."""
    C, H, W = z.shape
    return z.view(C, H // 2, 2, W // 2, 2).permute(1, 3, 0, 2, 4).reshape(-1, 4 * C)


def unpatchify(x, h, w):
    """(2.3): the way back, for h × w tokens."""
    return x.view(h, w, -1, 2, 2).permute(2, 0, 3, 1, 4).reshape(-1, 2 * h, 2 * w)


def make_ids(h, w):
    """(2.4), (2.5): (0, row, column) for image tokens after (0, 0, 0) for text."""
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    img_ids = torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(TEXT_LENGTH, 3, dtype=torch.long), img_ids])


# ---------------------------------------------------------------- RoPE and attention


def rope(ids):
    """(3.1), (3.2), (3.4): cos and sin of every token's 32 angles."""
    j = [torch.arange(d // 2, dtype=torch.float64) for d in AXES]
    omega = [10_000 ** (-2 * j[a] / d) for a, d in enumerate(AXES)]
    angle = torch.cat([ids[:, a, None] * omega[a] for a in range(3)], dim=-1)
    return angle.cos().float(), angle.sin().float()


def apply_rope(x, pe):
    """(3.3): turn the pairs (2j, 2j + 1) of a head's channels."""
    cos, sin = pe
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([cos * a - sin * b, sin * a + cos * b], dim=-1).flatten(-2)


def attention(q, k, v, pe):
    """(4.9): A = Softmax(Q̃ K̃ᵀ / √d_h) V, heads joined again."""
    scores = apply_rope(q, pe) @ apply_rope(k, pe).mT / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


# ------------------------------------------------------------ conditioning and blocks


def timestep_embedding(t):
    """(4.1): 128 cosines and 128 sines of 1000 t."""
    f = 10_000 ** (-torch.arange(128) / 128)
    angle = 1000 * torch.tensor(t, dtype=torch.float32) * f
    return torch.cat([angle.cos(), angle.sin()])


def mlp_embedder(W, name, x):
    """(4.2): W₂ SiLU(W₁ x + c₁) + c₂."""
    return linear(W, f"{name}.out_layer", F.silu(linear(W, f"{name}.in_layer", x)))


def conditioning(W, t, guidance, y):
    """(4.3): vec, from noise level, guidance (if the model takes it) and CLIP."""
    vec = mlp_embedder(W, "time_in", timestep_embedding(t))
    if "guidance_in.in_layer.weight" in W:
        vec = vec + mlp_embedder(W, "guidance_in", timestep_embedding(guidance))
    return vec + mlp_embedder(W, "vector_in", y)


def modulation(W, name, vec, parts):
    """(4.4): shift, scale and gate of each branch, from vec."""
    return linear(W, name, F.silu(vec)).chunk(parts)


def modulate(x, shift, scale):
    """(4.5): x̃ = (1 + s) ⊙ LN(x) + b."""
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift


def qkv_heads(W, name, qkv):
    """(4.6), (4.7): queries, keys, values; the first two normed."""
    q, k, v = (split_heads(part, HEADS) for part in qkv.chunk(3, dim=-1))
    q = rms_norm(q, W[f"{name}.query_norm.scale"])
    k = rms_norm(k, W[f"{name}.key_norm.scale"])
    return q, k, v


def double_block(W, name, img, txt, vec, pe):
    """(4.8) to (4.12): two streams with weights of their own, one attention."""
    streams = {"txt": txt, "img": img}
    mods, heads = {}, {}
    for s, x in streams.items():
        mods[s] = modulation(W, f"{name}.{s}_mod.lin", vec, 6)
        b1, s1 = mods[s][:2]
        qkv = linear(W, f"{name}.{s}_attn.qkv", modulate(x, b1, s1))
        heads[s] = qkv_heads(W, f"{name}.{s}_attn.norm", qkv)
    joined = [torch.cat([heads["txt"][i], heads["img"][i]], dim=1) for i in range(3)]
    A = attention(*joined, pe)
    A = {"txt": A[: len(txt)], "img": A[len(txt) :]}
    for s, x in streams.items():
        _, _, g1, b2, s2, g2 = mods[s]
        x = x + g1 * linear(W, f"{name}.{s}_attn.proj", A[s])
        h = linear(W, f"{name}.{s}_mlp.0", modulate(x, b2, s2))
        h = F.gelu(h, approximate="tanh")
        streams[s] = x + g2 * linear(W, f"{name}.{s}_mlp.2", h)
    return streams["img"], streams["txt"]


def single_block(W, name, x, vec, pe):
    """(5.1) to (5.4): attention beside MLP, one matrix in, one out."""
    shift, scale, gate = modulation(W, f"{name}.modulation.lin", vec, 3)
    both = linear(W, f"{name}.linear1", modulate(x, shift, scale))
    qkv, m = both.split([3 * x.shape[-1], 4 * x.shape[-1]], dim=-1)
    A = attention(*qkv_heads(W, f"{name}.norm", qkv), pe)
    o = linear(W, f"{name}.linear2", torch.cat([A, F.gelu(m, approximate="tanh")], -1))
    return x + gate * o


def last_layer(W, x, vec):
    """(5.5): shift, scale, and down to the 64 numbers of a token."""
    shift, scale = modulation(W, "final_layer.adaLN_modulation.1", vec, 2)
    return linear(W, "final_layer.linear", modulate(x, shift, scale))


def flux(W, x, t, txt, y, guidance, pe):
    """The velocity v_θ(x_t, t) of every image token, in five stages."""
    img, txt = linear(W, "img_in", x), linear(W, "txt_in", txt)
    vec = conditioning(W, t, guidance, y)
    for i in range(3):
        img, txt = double_block(W, f"double_blocks.{i}", img, txt, vec, pe)
    x = torch.cat([txt, img])
    for i in range(6):
        x = single_block(W, f"single_blocks.{i}", x, vec, pe)
    return last_layer(W, x[len(txt) :], vec)


# ---------------------------------------------------------------- the decoder


def group_norm(W, name, x):
    return F.group_norm(x, 8, W[name + ".weight"], W[name + ".bias"], eps=1e-6)


def conv(W, name, x):
    kernel = W[name + ".weight"]
    return F.conv2d(x, kernel, W[name + ".bias"], padding=kernel.shape[-1] // 2)


def resnet_block(W, name, x):
    h = conv(W, f"{name}.conv1", F.silu(group_norm(W, f"{name}.norm1", x)))
    h = conv(W, f"{name}.conv2", F.silu(group_norm(W, f"{name}.norm2", h)))
    shortcut = f"{name}.nin_shortcut"
    return h + (conv(W, shortcut, x) if shortcut + ".weight" in W else x)


def attention_block(W, name, x):
    h = group_norm(W, f"{name}.norm", x)
    q, k, v = (conv(W, f"{name}.{part}", h).flatten(2).mT for part in "qkv")
    A = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return x + conv(W, f"{name}.proj_out", A.mT.reshape(x.shape))


def decode(W, z):
    """(8.2): x = dec(z / scale + shift), eight times larger, in [-1, 1]."""
    h = conv(W, "decoder.conv_in", z[None] / SCALE + SHIFT)
    h = resnet_block(W, "decoder.mid.block_1", h)
    h = attention_block(W, "decoder.mid.attn_1", h)
    h = resnet_block(W, "decoder.mid.block_2", h)
    for level in (3, 2, 1, 0):
        for i in range(3):
            h = resnet_block(W, f"decoder.up.{level}.block.{i}", h)
        if level > 0:
            h = F.interpolate(h, scale_factor=2)
            h = conv(W, f"decoder.up.{level}.upsample.conv", h)
    return conv(W, "decoder.conv_out", F.silu(group_norm(W, "decoder.norm_out", h)))[0]


# ---------------------------------------------------------------- a picture


@torch.inference_mode()
def paint(prompt, model, steps, guidance, seed, width=128, height=128):
    """A PIL picture; width and height are multiples of 16."""
    w, h = width // 16, height // 16
    W = load("flux")
    if model != "tiny":
        W = add_delta(W, load(model.removeprefix("tiny-")))
    ids = [tokenize(text) for text in (prompt, "")]
    txt = [t5(load("t5"), i) for i in ids]
    y = [clip(load("clip"), i) for i in ids]
    pe = rope(make_ids(h, w))
    generator = torch.Generator().manual_seed(seed)
    x = patchify(torch.randn(1, 16, 2 * h, 2 * w, generator=generator)[0])  # (2.1)
    timesteps = get_schedule(steps, h * w, shift=model != "tiny-schnell")
    for t, t_next in pairwise(timesteps):
        v = flux(W, x, t, txt[0], y[0], guidance, pe)
        if model == "tiny" and guidance != 1:
            v_uncond = flux(W, x, t, txt[1], y[1], guidance, pe)
            v = v_uncond + guidance * (v - v_uncond)  # (6.4)
        x = x + (t_next - t) * v  # (6.2)
    pixels = (decode(load("ae"), unpatchify(x, h, w)).clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="FLUX on one page")
    parser.add_argument("prompt")
    parser.add_argument("--model", default="tiny-schnell", help="or tiny, or tiny-dev")
    parser.add_argument("--steps", type=int, default=4, help="28 for the other two")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("microflux.png"))
    o = parser.parse_args()
    paint(o.prompt, o.model, o.steps, o.guidance, o.seed).save(o.out)
