"""FLUX.1 and FLUX.2 as rows of one table, and what each choice costs in parameters and arithmetic. Notebook 16."""

from dataclasses import dataclass, replace

from flux_edu.flux2.model import Flux2Params
from flux_edu.model import EMBEDDING_WIDTH, FluxParams


@dataclass(frozen=True)
class Design:
    """Everything in which the transformers of FLUX.1 and FLUX.2 differ: the published rows stand in `DESIGNS`.

    mlp_ratio is the width of the MLP's inside over D; a gated MLP (SwiGLU) has a second such matrix before its gate.
    text_width is the width of a text token, pooled_width that of CLIP's vector, 0 where there is none.
    """

    width: int
    heads: int
    double_blocks: int
    single_blocks: int
    mlp_ratio: float
    gated_mlp: bool
    biases: bool
    shared_modulation: bool
    axes: tuple[int, ...]
    theta: int
    channels: int
    text_width: int
    pooled_width: int
    guidance: bool
    text_encoder: str
    latent_channels: int

    def params(self) -> FluxParams | Flux2Params:
        """What the package's class for this design takes; there is none for mixtures of the two."""
        shape = dict(
            context_in_dim=self.text_width,
            hidden_size=self.width,
            num_heads=self.heads,
            depth=self.double_blocks,
            depth_single_blocks=self.single_blocks,
            guidance_embed=self.guidance,
            in_channels=self.channels,
            mlp_ratio=self.mlp_ratio,
            axes_dim=self.axes,
            theta=self.theta,
        )
        kind = self.gated_mlp, self.biases, self.shared_modulation, self.pooled_width > 0
        if kind == (True, False, True, False):
            return Flux2Params(**shape)
        if kind == (False, True, False, True):
            return FluxParams(**shape, out_channels=self.channels, vec_in_dim=self.pooled_width, qkv_bias=True)
        raise ValueError("this design mixes FLUX.1 and FLUX.2: its parameters can be counted, but no class builds it")


FLUX1_DEV = Design(
    width=3072,
    heads=24,
    double_blocks=19,
    single_blocks=38,
    mlp_ratio=4.0,
    gated_mlp=False,
    biases=True,
    shared_modulation=False,
    axes=(16, 56, 56),
    theta=10_000,
    channels=64,
    text_width=4096,
    pooled_width=768,
    guidance=True,
    text_encoder="T5-XXL, last layer; CLIP-L, pooled",
    latent_channels=16,
)
FLUX2_DEV = Design(
    width=6144,
    heads=48,
    double_blocks=8,
    single_blocks=48,
    mlp_ratio=3.0,
    gated_mlp=True,
    biases=False,
    shared_modulation=True,
    axes=(32, 32, 32, 32),
    theta=2000,
    channels=128,
    text_width=3 * 5120,
    pooled_width=0,
    guidance=True,
    text_encoder="Mistral Small 3.2, layers 10, 20, 30",
    latent_channels=32,
)
KLEIN = replace(FLUX2_DEV, guidance=False)
DESIGNS = {
    "FLUX.1 dev": FLUX1_DEV,
    "FLUX.1 schnell": replace(FLUX1_DEV, guidance=False),
    "FLUX.2 dev": FLUX2_DEV,
    "FLUX.2 klein 9B": replace(
        KLEIN, width=4096, heads=32, single_blocks=24, text_width=3 * 4096, text_encoder="Qwen3 8B, layers 9, 18, 27"
    ),
    "FLUX.2 klein 4B": replace(
        KLEIN,
        width=3072,
        heads=24,
        double_blocks=5,
        single_blocks=20,
        text_width=3 * 2560,
        text_encoder="Qwen3 4B, layers 9, 18, 27",
    ),
}


def parameters(design: Design) -> dict[str, int]:
    """How many numbers each kind of part holds, by arithmetic alone; nothing is built."""
    d, D = design, design.width

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + d.biases) * outputs

    hidden = int(D * d.mlp_ratio)
    first = 2 * hidden if d.gated_mlp else hidden
    norms = 2 * (D // d.heads)  # QK norm: a scale for queries, one for keys
    vec = linear(EMBEDDING_WIDTH, D) + linear(D, D)
    pooled = linear(d.pooled_width, D) + linear(D, D) if d.pooled_width else 0
    stream = linear(D, 3 * D) + linear(D, D) + norms + linear(D, first) + linear(hidden, D)
    single = linear(D, 3 * D + first) + linear(D + hidden, D) + norms
    per_double, per_single = 2 * linear(D, 6 * D), linear(D, 3 * D)  # (shift, scale, gate) a branch; two streams
    sets = (1, 1) if d.shared_modulation else (d.double_blocks, d.single_blocks)
    return {
        "double blocks": d.double_blocks * 2 * stream,
        "single blocks": d.single_blocks * single,
        "modulation of the blocks": sets[0] * per_double + sets[1] * per_single,
        "inputs, vector, last layer": linear(d.channels, D)
        + linear(d.text_width, D)
        + vec * (1 + d.guidance)
        + pooled
        + linear(D, 2 * D)
        + linear(D, d.channels),
    }


def flops(design: Design, image_tokens: int, text_tokens: int = 512) -> dict[str, float]:
    """Multiplications and additions of one evaluation, a multiply-add counted as two.

    The matrices of a block see every token, modulation sees one vector a picture. Left out, together one per
    cent or less: norms, RoPE, softmax, first and last layers.
    """
    d, D, L = design, design.width, image_tokens + text_tokens
    hidden = int(D * d.mlp_ratio)
    block = 2 * L * D * (4 * D + (3 if d.gated_mlp else 2) * hidden)  # a double block splits the tokens, not the work
    blocks = d.double_blocks + d.single_blocks
    return {
        "matrices": blocks * block,
        "attention": blocks * 4 * L**2 * D,
        "modulation": 2 * parameters(replace(d, biases=False))["modulation of the blocks"],
    }


def difference_table(*names: str) -> str:
    """The rows of the table in which the named designs are not all alike, as Markdown."""
    chosen = {name: DESIGNS[name] for name in names or DESIGNS}

    def say(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:,}" if isinstance(value, int) else str(value)

    lines = [f"| | {' | '.join(chosen)} |", "|---|" + "---|" * len(chosen)]
    for field in Design.__dataclass_fields__:
        values = [say(getattr(design, field)) for design in chosen.values()]
        if len(set(values)) > 1:
            lines.append(f"| {field.replace('_', ' ')} | {' | '.join(values)} |")
    counted = [f"{sum(parameters(design).values()):,}" for design in chosen.values()]
    return "\n".join([*lines, f"| **parameters** | {' | '.join(counted)} |"])
