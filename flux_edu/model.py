"""The whole network: five stages from a noisy picture, a text and a noise level to a velocity. Eq. (4.3)."""

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
    """The shape of a FLUX: channels in and out of a token, widths, depths, and the axes of the positions."""

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

    def __post_init__(self):
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of num_heads = {self.num_heads}, so a head has"
                " no whole width; choose heads × head width, as FLUX.1 does with 24 × 128 = 3072"
            )


class Flux(nn.Module):
    """The transformer of FLUX.1, its parameters under the names of the published checkpoints: those load strictly."""

    def __init__(self, params: FluxParams):
        super().__init__()
        self.params = p = params
        D = p.hidden_size
        self.pe_embedder = EmbedND(D // p.num_heads, p.theta, p.axes_dim)
        self.img_in = nn.Linear(p.in_channels, D)
        self.txt_in = nn.Linear(p.context_in_dim, D)
        self.time_in = MLPEmbedder(EMBEDDING_WIDTH, D)
        self.vector_in = MLPEmbedder(p.vec_in_dim, D)
        self.guidance_in = MLPEmbedder(EMBEDDING_WIDTH, D) if p.guidance_embed else None
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(D, p.num_heads, p.mlp_ratio, p.qkv_bias) for _ in range(p.depth)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(D, p.num_heads, p.mlp_ratio) for _ in range(p.depth_single_blocks)
        )
        self.final_layer = LastLayer(D, 1, p.out_channels)

    def conditioning(
        self, timesteps: Float[Tensor, "B"], y: Float[Tensor, "B vec_in"], guidance: Float[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B D"]:
        """The vector that steers every block.

        Eq. (4.3):  **v** = MLP_t(emb(t)) + MLP_w(emb(w)) + MLP_y(y)

        t is the noise level in [0, 1], w the guidance (only models distilled to take it have MLP_w), y CLIP's pooled
        text.
        """
        dtype = self.img_in.weight.dtype
        vec = self.time_in(timestep_embedding(timesteps, EMBEDDING_WIDTH).to(dtype))
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError(
                    "this model is guidance-distilled: pass guidance, one number a picture (FLUX.1 dev is made for"
                    " about 3.5)"
                )
            vec = vec + self.guidance_in(timestep_embedding(guidance, EMBEDDING_WIDTH).to(dtype))
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
        """The velocity v_θ(x_t, t) of every image token. timesteps lie in [0, 1]; they and ids are float32."""
        self._check(img, img_ids, txt, txt_ids, y, timesteps=timesteps, guidance=guidance)
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

    def _check(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, y: Tensor, **numbers: Tensor | float | None
    ) -> None:
        p, B = self.params, img.shape[0]
        for name, x, width, advice in (
            (
                "img",
                img,
                p.in_channels,
                "pass patchified latents, with control or mask channels if it is made for them",
            ),
            ("txt", txt, p.context_in_dim, "pass the last hidden states of this model's T5"),
            ("y", y, p.vec_in_dim, "pass the pooled state of this model's CLIP"),
        ):
            if x.shape[-1] != width:
                raise ValueError(f"{name} has {x.shape[-1]} channels, this model takes {width}: {advice}")
            if x.shape[0] != B:
                raise ValueError(
                    f"{name} is a batch of {x.shape[0]}, img one of {B}: repeat one of them, as patchify.prepare does"
                )
        for name, x, ids in (("img", img, img_ids), ("txt", txt, txt_ids)):
            if ids.shape[:2] != x.shape[:2]:
                raise ValueError(
                    f"{name}_ids are for {tuple(ids.shape[:2])} (batch, tokens), but {name} has {tuple(x.shape[:2])}:"
                    f" one id a token, as patchify.make_{name}_ids makes them"
                )
        for name, x in numbers.items():
            if x is not None and (shape := tuple(getattr(x, "shape", ()))) != (B,):
                raise ValueError(
                    f"{name} has shape {shape}, this batch takes ({B},): one number a picture, e.g."
                    f" torch.full(({B},), …)"
                )
