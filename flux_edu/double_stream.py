"""Chapter 4, the whole block: two streams of tokens, each with its own weights, that meet in one attention."""

from jaxtyping import Float
from torch import Tensor, addcmul, nn

from flux_edu.attention import SelfAttention, attention, join_streams, split_heads, split_streams
from flux_edu.modulation import Modulation, modulate


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """The feed-forward part of a stream: wider, GELU (tanh form), back."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))


class DoubleStreamBlock(nn.Module):
    """Image and text tokens keep separate weights and share one attention.

    Per stream, with shift b, scale s and gate g of its two branches from Eq. (4.4):

    Eq. (4.11):  x ← x + g¹ ⊙ (W_proj A + c_proj)
    Eq. (4.12):  x ← x + g² ⊙ MLP((1 + s²) ⊙ LN(x) + b²)

    A is the stream's part of the joint attention (4.8)–(4.10) over both streams. In: img "B L_img D", txt "B L_txt D",
    vec "B D", and the rotations pe of all tokens, text first. Esser et al., "SD3", 2024; FLUX reference code.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qkv_bias: bool = False):
        super().__init__()
        self.num_heads = num_heads
        hidden = int(hidden_size * mlp_ratio)
        self.img_mod = Modulation(hidden_size, double=True)
        self.img_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.img_mlp = mlp(hidden_size, hidden)
        self.txt_mod = Modulation(hidden_size, double=True)
        self.txt_attn = SelfAttention(hidden_size, num_heads, qkv_bias)
        self.txt_mlp = mlp(hidden_size, hidden)

    def forward(
        self,
        img: Float[Tensor, "B L_img D"],
        txt: Float[Tensor, "B L_txt D"],
        vec: Float[Tensor, "B D"],
        pe: Float[Tensor, "B 1 L pairs 2 2"],
    ) -> tuple[Float[Tensor, "B L_img D"], Float[Tensor, "B L_txt D"]]:
        img_mod1, img_mod2 = self.img_mod(vec)
        txt_mod1, txt_mod2 = self.txt_mod(vec)

        # queries, keys and values of each stream, from its modulated tokens
        img_q, img_k, img_v = split_heads(
            self.img_attn.qkv(modulate(img, img_mod1.shift, img_mod1.scale)), self.num_heads
        )
        txt_q, txt_k, txt_v = split_heads(
            self.txt_attn.qkv(modulate(txt, txt_mod1.shift, txt_mod1.scale)), self.num_heads
        )
        img_q, img_k = self.img_attn.norm(img_q, img_k)
        txt_q, txt_k = self.txt_attn.norm(txt_q, txt_k)

        # one attention over all tokens, text first
        q, k, v = (join_streams(t, i, dim=2) for t, i in ((txt_q, img_q), (txt_k, img_k), (txt_v, img_v)))
        txt_attn, img_attn = split_streams(attention(q, k, v, pe), txt.shape[1])

        # what attention found, then what the MLP makes of it, each let in by its gate: addcmul(x, g, y) is x + g ⊙ y
        img = addcmul(img, img_mod1.gate, self.img_attn.proj(img_attn))
        img = addcmul(img, img_mod2.gate, self.img_mlp(modulate(img, img_mod2.shift, img_mod2.scale)))
        txt = addcmul(txt, txt_mod1.gate, self.txt_attn.proj(txt_attn))
        txt = addcmul(txt, txt_mod2.gate, self.txt_mlp(modulate(txt, txt_mod2.shift, txt_mod2.scale)))
        return img, txt
