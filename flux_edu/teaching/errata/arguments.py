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
from flux_edu.teaching.errata.entry import Check

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


CHECKS = [
    Check(35, "imprecise", "what 1000 × 700 pixels become in the demo", size_notes, size_right, (1008, 704)),
    Check(49, "imprecise", "steps run for num_steps = 28, strength 0.5", full_schedule, half_strength, 14),
    Check(
        24,
        "missing",
        "latent and noise have the same rows for 72 pixels",
        rows_notes,
        rows_right,
        True,
        speaker="the reference",
    ),
    Check(20, "imprecise", "velocities that dev computes a step", guidance_notes, guidance_right, 1, (rows_asked,)),
    Check(36, "missing", "one picture encoded twice differs by", seed_notes, seed_right, 0.0, speaker="the reference"),
    Check(
        23,
        "missing",
        "(black, white) as the autoencoder wants them",
        range_notes,
        range_right,
        (-1.0, 1.0),
        speaker="the reference",
    ),
    Check(21, "wrong", "steps run at the default strength 0.0, of 28", strength_notes, strength_right, 0),
    Check(
        22,
        "missing",
        "start index for (ς, N) = " + ", ".join(map(str, CASES)),
        index_notes,
        index_right,
        (10, 5, 4, 5, 14),
        speaker="the reference",
    ),
    Check(25, "imprecise", "all that paints it again is stored", metadata_notes, metadata_right, True),
]
