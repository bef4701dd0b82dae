"""Chapter 4, the whole block: two streams of tokens that meet in one attention."""

from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import SelfAttention, joint_attention
from flux_edu.modulation import Modulation, modulate


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """The feed-forward part of a stream: wider, GELU (tanh form), back."""
    gelu = nn.GELU(approximate="tanh")
    return nn.Sequential(nn.Linear(dim, hidden), gelu, nn.Linear(hidden, dim))


class DoubleStreamBlock(nn.Module):
    """Image and text tokens keep separate weights and share one attention.

    Per stream, with shift b, scale s and gate g of its two branches from Eq. (4.4):

    Eq. (4.11):  x ← x + g¹ ⊙ (W_proj A + c_proj)
    Eq. (4.12):  x ← x + g² ⊙ MLP((1 + s²) ⊙ LN(x) + b²)

    A is the stream's part of the joint attention (4.8)–(4.10) over both streams; pe are
    the rotations of all tokens, text first. Esser et al., "SD3", 2024; FLUX reference
    code.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool = False,
    ):
        super().__init__()
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
        img_mod1, img_mod2 = self.img_mod(vec)  # Eq. (4.4)
        txt_mod1, txt_mod2 = self.txt_mod(vec)
        img_qkv = self.img_attn.heads(modulate(img, img_mod1))  # Eq. (4.5) to (4.7)
        txt_qkv = self.txt_attn.heads(modulate(txt, txt_mod1))
        txt_A, img_A = joint_attention(txt_qkv, img_qkv, pe)  # Eq. (4.8) to (4.10)
        img = img + img_mod1.gate * self.img_attn.proj(img_A)  # Eq. (4.11)
        txt = txt + txt_mod1.gate * self.txt_attn.proj(txt_A)
        img = img + img_mod2.gate * self.img_mlp(modulate(img, img_mod2))  # Eq. (4.12)
        txt = txt + txt_mod2.gate * self.txt_mlp(modulate(txt, txt_mod2))
        return img, txt
