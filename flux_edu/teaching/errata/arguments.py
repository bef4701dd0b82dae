"""The notes on how FLUX was trained, and on the arguments of `generate_image`."""

import torch
from PIL import Image

from flux_edu.autoencoder import AutoEncoder, AutoEncoderParams
from flux_edu.io.advice import collect
from flux_edu.io.images import to_tensor
from flux_edu.io.options import round_size
from flux_edu.model import Flux, FluxParams
from flux_edu.patchify import get_noise, make_img_ids, make_txt_ids
from flux_edu.pipeline import FluxGenerator
from flux_edu.sampling import denoise, image_to_image_start
from flux_edu.schedule import get_schedule
from flux_edu.teaching.errata.entry import Check, Erratum

PART = "training, and the arguments of `generate_image`"
SMALL = dict(in_channels=5, out_channels=5, vec_in_dim=7, context_in_dim=11, hidden_size=24, mlp_ratio=2.0, num_heads=2)
SMALL |= dict(depth=1, depth_single_blocks=1, axes_dim=(4, 4, 4), theta=100, qkv_bias=True)


def small_flux(guidance_embed: bool = False) -> Flux:
    """An untrained FLUX of 24 channels, for shapes and identities."""
    return Flux(FluxParams(**SMALL, guidance_embed=guidance_embed)).eval()


def small_inputs() -> dict[str, torch.Tensor]:
    """Random arguments for it: 6 image tokens and 3 of text."""
    ids = dict(img_ids=make_img_ids(1, 2, 3), txt_ids=make_txt_ids(1, 3))
    return dict(img=torch.randn(1, 6, 5), txt=torch.randn(1, 3, 11), vec=torch.randn(1, 7)) | ids


def rows_asked(model: Flux, **more) -> int:
    """How many velocities the network computes for one step of one picture."""
    rows = []
    model.img_in.register_forward_hook(lambda _, args, out: rows.append(len(out)))
    denoise(model, **small_inputs(), timesteps=[1.0, 0.0], guidance=3.0, **more)
    return sum(rows)


def size_notes():
    return 1000, 700


def size_right():
    rows, columns = get_noise(1, 700, 1000, "cpu", torch.float32, 0).shape[2:]
    return 8 * columns, 8 * rows  # the decoder makes 8 × 8 pixels of each place


def full_schedule():
    return len(get_schedule(28, 64)) - 1


def half_strength():
    z, noise = torch.randn(2, 1, 16, 4, 4)
    _, timesteps = image_to_image_start(z, noise, get_schedule(28, 64), strength=0.5)
    return len(timesteps) - 1


def guidance_notes():
    empty = torch.randn(1, 3, 11), torch.randn(1, 7)
    return rows_asked(small_flux(), uncond=empty)  # v_∅ + 3 (v_c - v_∅)


def guidance_right():
    return rows_asked(small_flux(guidance_embed=True))  # 3 is embedded and goes in


def small_ae() -> AutoEncoder:
    """An untrained autoencoder of 8 channels."""
    sizes = dict(resolution=16, in_channels=3, ch=8, out_ch=3, ch_mult=(1, 2), num_res_blocks=1, z_channels=2)
    return AutoEncoder(AutoEncoderParams(**sizes, scale_factor=0.3611, shift_factor=0.1159, norm_groups=4))


def seed_notes():
    ae, picture = small_ae(), torch.rand(1, 3, 16, 16)
    mean, logvar = ae.encoder(picture).chunk(2, dim=1)
    a, b = (mean + (logvar / 2).exp() * torch.randn_like(mean) for _ in range(2))
    return (a - b).abs().max()


def seed_right():
    ae, picture = small_ae(), torch.rand(1, 3, 16, 16)
    return (ae.encode(picture) - ae.encode(picture)).abs().max()


def strength_notes():
    return len(get_schedule(28, 64)) - 1  # 0.0: no guidance from the start picture, so all steps


def strength_right():
    z, noise = torch.randn(2, 1, 16, 4, 4)
    _, rest = image_to_image_start(z, noise, get_schedule(28, 64), strength=0.0)
    return len(rest) - 1


CASES = [(0.8, 50), (0.9, 50), (0.8, 20), (0.8, 25), (0.5, 28)]


def index_notes():
    return [int((1 - strength) * N) for strength, N in CASES]


def index_right():
    z = torch.zeros(1, 1)
    rest = [image_to_image_start(z, z, get_schedule(N, 64), strength)[1] for strength, N in CASES]
    return [N + 1 - len(timesteps) for timesteps, (_, N) in zip(rest, CASES, strict=True)]


def range_notes():
    black, white = 0, 255
    return black / 255.0, white / 255.0


def range_right():
    return [to_tensor(Image.new("L", (16, 16), grey)).mean() for grey in (0, 255)]


def rows_notes():
    encoded = 72 // 8
    return encoded == get_noise(1, 72, 128, "cpu", torch.float32, 0).shape[2]


def rows_right():
    with collect():
        width, height = round_size(128, 72)
    return height // 8 == get_noise(1, height, width, "cpu", torch.float32, 0).shape[2]


STORED = {"prompt", "width", "height", "num_steps", "guidance", "seed"}


def metadata_notes():
    return STORED & {"prompt", "Software", "Make", "Model"} == STORED  # what the reference writes into the file


def metadata_right():
    picture = FluxGenerator("tiny", "cpu").generate_image(32, 32, 1, 1.0, seed=0, prompt="a 3d fox")
    return STORED & set(picture.info) == STORED


METADATA = r"$\text{add\_sampling\_metadata}$ is a boolean indicating whether to add sampling metadata"
SIZES = ("06_sampling", "Mistakes that stop, or should: sizes")

ENTRIES = [
    Erratum(
        19, PART, "how it was trained",
        "Since the Flux only provided the inference code, we did not know how the model is trained.",
        "out of date",
        r"The loss has been published since: a rectified flow, $E\,\lVert v_\theta(x_t, t, c) - (\varepsilon - x_0)"
        r"\rVert^2$ on $x_t = (1-t)x_0 + t\varepsilon$. dev is then guidance-distilled, schnell distilled to few steps"
        " (LADD). The levels are logit-normal, shifted with the size of the picture. Data, optimiser and the numbers of"
        " that distribution are still not published.",
        ("9.1", "9.2"), ("09_training", "What the notes leave open: how is it trained?"),
        source="FLUX.1 Kontext, arXiv 2506.15742; LADD, arXiv 2403.12015; asked for in flux#68 and flux#478",
    ),
    Erratum(
        35, PART, "the size of the picture", "are the dimensions of the output image", "imprecise",
        "A token is 16 × 16 pixels, so only multiples of 16 can be painted. This function, the demo's, does not round;"
        " the noise has 2⌈H/16⌉ rows, so the picture comes out **larger** than asked for. The reference's command line"
        " and this package round down instead, here to 992 × 688, before anything is drawn.",
        ("2.1",), SIZES,
        Check("what 1000 × 700 pixels become in the demo", size_notes, size_right, (1008, 704)),
        "get_noise in sampling.py, demo_gr.py and cli.py of the reference",
    ),
    Erratum(
        49, PART, "the number of steps", r"$\text{num\_steps}$ is the number of denoising steps", "imprecise",
        r"Without a start picture. With one, the walk begins at step $i$ of the same schedule, and only $N - i$ steps"
        " are run, $i$ being chosen by the strength.",
        ("6.3",), ("06_sampling", "Strength chooses where the walk begins"),
        Check("steps run for num_steps = 28, strength 0.5", full_schedule, half_strength, 14),
    ),
    Erratum(
        24, PART, "the size of a start picture",
        r"here $\text{width}$ and $\text{height}$ are the dimensions of the output image",
        "missing",
        "The reference's demo does not round the size before it encodes a start picture. At 72 rows of pixels the"
        " encoder gives 9 rows of latent and the noise has 10, and they cannot be mixed. The demo's sliders step by"
        " 16 and hide it.",
        ("2.1", "6.3"), SIZES,
        Check("latent and noise have the same rows for 72 pixels", rows_notes, rows_right, True,
              speaker="the reference"),
        "demo_gr.py of the reference",
    ),
    Erratum(
        20, PART, "guidance", r"$\text{guidance}$ is the guidance scale", "imprecise",
        r"A scale multiplies a difference, $v_\varnothing + w(v_c - v_\varnothing)$, and takes two velocities a step."
        " In FLUX.1 dev w is an *input* of a distilled network: times 1000, embedded, added to `vec`. One velocity a"
        " step, no negative prompt. schnell ignores it.",
        ("4.3", "6.4"), ("06_sampling", "FLUX.1 dev: guidance is an input"),
        Check("velocities that dev computes a step", guidance_notes, guidance_right, 1, (rows_asked,)),
    ),
    Erratum(
        36, PART, "seed", r"$\text{seed}$ is the random seed", "missing",
        "The seed decides the noise. It decides the picture only if nothing else is drawn. Until June 2025 the"
        " reference also *drew* the start picture's latent, out of the seed's reach; the mean is taken now.",
        ("2.1", "8.1"), ("08_autoencoder", "The mean or a sample?"),
        Check("one picture encoded twice differs by", seed_notes, seed_right, 0.0, speaker="the reference"),
        "autoencoder.py of the reference; the symptom, other pictures for one seed, is asked about in flux#37",
    ),
    Erratum(
        23, PART, "the range of a start picture", r"$\text{init\_image}$ is the optional initial image", "missing",
        "The reference behind this argument divides the pixels by 255. The autoencoder reads [−1, 1], so the picture"
        " comes back pale. Nothing complains.",
        ("8.1",), ("08_autoencoder", "[0, 1] is not [−1, 1]"),
        Check("(black, white) as the autoencoder wants them", range_notes, range_right, (-1.0, 1.0),
              speaker="the reference"),
        "demo_gr.py of the reference; flux#180 asks which range is right, flux#402 shows both",
    ),
    Erratum(
        21, PART, "strength", "is the strength of the image-to-image guidance", "wrong",
        r"It guides nothing. It chooses the step $i$ at which the walk begins, from $x = t_i\varepsilon + (1-t_i)z$."
        " Strength 1 is text to image. Strength 0, the default, runs **no** step and returns the start picture's round"
        " trip through the autoencoder.",
        ("6.3",), ("06_sampling", "Strength chooses where the walk begins"),
        Check("steps run at the default strength 0.0, of 28", strength_notes, strength_right, 0),
    ),
    Erratum(
        22, PART, "strength, float error", r"$\mathrm{image2image\_strength}$ is the strength", "missing",
        "The reference behind this argument computes `int((1 - strength) * num_steps)`, and (1 − 0.8) · 50 is a hair"
        r" under 10 in floating point. Round instead: $i = \lfloor (1-\varsigma)N + ½ \rfloor$, guarded.",
        ("6.3",), ("06_sampling", "int() starts one level too early"),
        Check("start index for (ς, N) = " + ", ".join(map(str, CASES)), index_notes, index_right, (10, 5, 4, 5, 14),
              speaker="the reference"),
        "demo_gr.py of the reference; sd3-ref has the same line",
    ),
    Erratum(
        25, PART, "metadata", METADATA, "imprecise",
        "Of what paints a picture again the reference stores the prompt and the model's name. Seed, size, steps and"
        " guidance are not stored. Here all of them are.",
        ("6.2",), ("06_sampling", "What a picture's file remembers"),
        Check("all that paints it again is stored", metadata_notes, metadata_right, True),
        "save_image in util.py of the reference",
    ),
]  # fmt: skip
