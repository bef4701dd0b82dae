"""The whole network: five stages from noise and text to a velocity. Eq. (4.3)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from flux_edu.attention import join_streams, split_streams
from flux_edu.double_stream import DoubleStreamBlock
from flux_edu.embeddings import MLPEmbedder, timestep_embedding
from flux_edu.rope import EmbedND
from flux_edu.single_stream import LastLayer, SingleStreamBlock

EMBEDDING_WIDTH = 256  # of the sinusoids of time and guidance


@dataclass(frozen=True)
class FluxParams:
    """The shape of a FLUX: channels of a token, widths, depths, axes of positions."""

    in_channels: int
    out_channels: int
    vec_in_dim: int
    context_in_dim: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: tuple[int, ...]
    theta: int
    qkv_bias: bool
    guidance_embed: bool


class Flux(nn.Module):
    """The transformer of FLUX.1, its parameters named as in published checkpoints."""

    def __init__(self, params: FluxParams):
        super().__init__()
        self.params = p = params
        D = p.hidden_size
        assert D % p.num_heads == 0, f"hidden_size = {D}: not {p.num_heads} equal heads"
        self.pe_embedder = EmbedND(D // p.num_heads, p.theta, p.axes_dim)
        self.img_in = nn.Linear(p.in_channels, D)
        self.txt_in = nn.Linear(p.context_in_dim, D)
        self.time_in = MLPEmbedder(EMBEDDING_WIDTH, D)
        self.vector_in = MLPEmbedder(p.vec_in_dim, D)
        self.guidance_in = MLPEmbedder(EMBEDDING_WIDTH, D) if p.guidance_embed else None
        block = D, p.num_heads, p.mlp_ratio
        self.double_blocks = nn.ModuleList(
            [DoubleStreamBlock(*block, p.qkv_bias) for _ in range(p.depth)],
        )
        self.single_blocks = nn.ModuleList(
            [SingleStreamBlock(*block) for _ in range(p.depth_single_blocks)],
        )
        self.final_layer = LastLayer(D, 1, p.out_channels)

    def conditioning(
        self,
        timesteps: Float[Tensor, "B"],
        y: Float[Tensor, "B vec_in"],
        guidance: Float[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B D"]:
        """The vector that steers every block.

        Eq. (4.3):  `vec` = MLP_t(emb(t)) + MLP_w(emb(w)) + MLP_y(y)

        t is the noise level in [0, 1], y CLIP's pooled text, w the guidance: only
        models that are distilled to take it have MLP_w.
        """

        def emb(number: Float[Tensor, "B"]) -> Float[Tensor, "B emb"]:
            return timestep_embedding(number, EMBEDDING_WIDTH).to(y.dtype)

        vec = self.time_in(emb(timesteps))
        if self.guidance_in is not None:
            assert guidance is not None, "guidance-distilled: pass guidance"
            vec = vec + self.guidance_in(emb(guidance))
        return vec + self.vector_in(y)

    def forward(
        self,
        img: Float[Tensor, "B L_img C"],
        img_ids: Float[Tensor, "B L_img axes"],
        txt: Float[Tensor, "B L_txt context"],
        txt_ids: Float[Tensor, "B L_txt axes"],
        timesteps: Float[Tensor, "B"],
        y: Float[Tensor, "B vec_in"],
        guidance: Float[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B L_img out"]:
        """The velocity v_θ(x_t, t) of every image token.

        timesteps lie in [0, 1]; they and the ids are float32, whatever the model's
        dtype.
        """
        p = self.params
        widths = [img.shape[2], txt.shape[2], y.shape[1]]
        expected = [p.in_channels, p.context_in_dim, p.vec_in_dim]
        assert widths == expected, f"img, txt, y have {widths} channels, not {expected}"
        ids = [img_ids.shape[1], txt_ids.shape[1]]
        tokens = [img.shape[1], txt.shape[1]]
        assert ids == tokens, f"img, txt have {tokens} tokens, but {ids} ids"
        # 1. both inputs to the model's width
        img, txt = self.img_in(img), self.txt_in(txt)
        # 2. time, guidance and pooled text to one vector
        vec = self.conditioning(timesteps, y, guidance)
        # 3. positions to rotations, text first
        pe = self.pe_embedder(join_streams(txt_ids, img_ids))
        # 4. two streams, then one
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, pe)
        x = join_streams(txt, img)
        for block in self.single_blocks:
            x = block(x, vec, pe)
        # 5. the text has done its work
        _, img = split_streams(x, txt.shape[1])
        return self.final_layer(img, vec)
