"""From a prompt to a picture: the encoders, the schedule, the sampler and the autoencoder put together."""

import json
import math
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

import flux_edu
from flux_edu.configs import get_spec
from flux_edu.io.advice import advise, advise_cut, unknown_words
from flux_edu.io.device import pick_device
from flux_edu.io.images import picture_hash, to_picture, to_tensor
from flux_edu.io.memory import on_device, place
from flux_edu.io.published import load_published
from flux_edu.io.tiny import TINY_FOLDER, load_tiny
from flux_edu.patchify import PIXELS_PER_TOKEN, get_noise, make_txt_ids, patchify, prepare, unpatchify
from flux_edu.sampling import SamplingOptions, denoise, image_to_image_start
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty

Callback = Callable[[int, float, Tensor, Tensor], None]  # that of `denoise`


class FluxGenerator:
    """A FLUX with its encoders and autoencoder, ready to paint.

    name is a key of `configs`: "tiny", "tiny-dev" and "tiny-schnell" ship with this package. The published models are
    read from files that you have obtained under their own terms; the environment variables FLUX_MODEL, FLUX_AE
    (safetensors files), FLUX_T5 and FLUX_CLIP (folders as transformers saves them), or FLUX_HOME for all of them, say
    where they are (see `real`). A GPU too small for all parts at once gets them one at a time (see `io.memory`). device
    None picks cuda, mps or cpu.
    """

    def __init__(self, name: str = "tiny", device: str | torch.device | None = None):
        self.name, self.spec, self.device = name, get_spec(name), pick_device(device)
        ships = self.spec.repo_id is None
        parts, self.offload = load_tiny(self.spec) if ships else load_published(name, self.spec, self.device)
        self.t5, self.clip, self.model, self.ae = parts
        for part in parts:
            part.eval().requires_grad_(False)
        place(*parts, self.device, self.offload)
        self.ae.to(memory_format=torch.channels_last)  # its convolutions are then a sixth faster, on CPUs too
        self.vocabulary = json.loads((TINY_FOLDER / "vocabulary.json").read_text("utf-8")) if ships else None

    @torch.inference_mode()
    def generate_image(
        self,
        width: int,
        height: int,
        num_steps: int,
        guidance: float,
        seed: int | None,
        prompt: str,
        init_image: Image.Image | None = None,
        image2image_strength: float = 0.0,
        add_sampling_metadata: bool = True,
        callback: Callback | None = None,
    ) -> Image.Image:
        """Paint one picture. Sizes in pixels, rounded down to multiples of 16 (with a warning); seed None draws one.

        With init_image, strength ς in [0, 1] says how much is painted anew, Eq. (6.3): 1 ignores the start picture, 0
        (as in the reference, the default) returns its round trip through the autoencoder. The start picture is resized
        to the size asked for. The picture's `info` carries what it takes to paint it again. `callback` is that of
        `denoise`.
        """
        if self.spec.params.in_channels != self.spec.params.out_channels:
            raise ValueError(
                f"{self.name} needs a control picture or a mask beside the prompt; pass what"
                " tools.control_cond or tools.fill_cond makes of it to sampling.denoise as img_cond, or let"
                f" apps.tools.ToolGenerator({self.name!r}) do it"
            )
        opts = self._options(prompt, *round_size(width, height), num_steps, guidance, seed)
        self._check(opts, init_image, image2image_strength)
        start, noted = None, {}
        if init_image is not None:
            resized = init_image.convert("RGB").resize((opts.width, opts.height), Image.Resampling.LANCZOS)
            start = self._encode(to_tensor(resized)), image2image_strength
            noted = {"init_image_sha256": picture_hash(init_image), "image2image_strength": image2image_strength}
        return self.paint(opts, start, noted=noted if add_sampling_metadata else None, callback=callback)

    @torch.inference_mode()
    def paint(
        self,
        opts: SamplingOptions,
        start: tuple[Float[Tensor, "1 C h w"], float] | None = None,
        beside: dict | None = None,
        seen: Float[Tensor, "1 N width"] | None = None,
        noted: dict | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """From noise to picture, with whatever goes in besides; checked by those who call it.

        start is an encoded picture and the strength of Eq. (6.3); beside is what `denoise` takes as img_cond or
        img_cond_seq, Eq. (12.1) to (12.3); seen is what an image encoder says, Eq. (12.4). noted joins the metadata;
        with None there are none.
        """
        # noise, schedule and text
        noise = get_noise(1, opts.height, opts.width, self.device, torch.float32, opts.seed)
        timesteps = get_schedule(opts.num_steps, patchify(noise).shape[1], shift=self.spec.shift)
        with self._here(self.t5, self.clip):
            inputs = prepare(self.t5, self.clip, noise, opts.prompt)
            uncond = embed_empty(self.t5, self.clip, 1) if self.spec.two_passes else None

        # a start picture moves the start into the schedule, a seen one joins the text
        if start is not None:
            latent, timesteps = image_to_image_start(start[0], noise, timesteps, start[1])
            inputs["img"] = patchify(latent)
        if seen is not None:
            inputs["txt"] = self.model.redux(inputs["txt"], seen)
            inputs["txt_ids"] = make_txt_ids(1, inputs["txt"].shape[1]).to(self.device)
            uncond = uncond and (self.model.redux(uncond[0], torch.zeros_like(seen)), uncond[1])

        # follow the velocity from noise to latent, then decode
        how = dict(timesteps=timesteps, guidance=opts.guidance, uncond=uncond, callback=callback)
        with self._here(self.model):
            x = denoise(self.model, **inputs, **how, **(beside or {}))
        z = unpatchify(x, opts.height, opts.width)
        with self._here(self.ae):
            picture = to_picture(self.ae.decode(z.to(next(self.ae.parameters()).dtype))[0])

        if noted is not None:
            painted_by = {"model": self.name, "version": flux_edu.__version__}
            dtype = str(self.model.img_in.weight.dtype)
            picture.info |= asdict(opts) | painted_by | {"schedule": timesteps, "dtype": dtype} | noted
        return picture

    def repaint(self, metadata: dict, init_image: Image.Image | None = None) -> Image.Image:
        """Paint again what `read_metadata` found in a file; bit for bit the same on the same machine and version."""
        if tool := metadata.get("tool"):
            inputs = [key.removesuffix("_sha256") for key in metadata if key.endswith("_sha256")]
            raise ValueError(
                f"the picture was painted by ToolGenerator.{tool} from more than a prompt: make"
                f" flux_edu.apps.tools.ToolGenerator({metadata['model']!r}) and call its repaint(metadata,"
                f" {', '.join(f'{name}=…' for name in inputs)}) with the same {' and '.join(inputs)}"
            )
        self._check_painter(metadata)
        wanted = metadata.get("init_image_sha256")
        if wanted and (init_image is None or picture_hash(init_image) != wanted):
            raise ValueError(
                "the picture began from a start picture: pass the same one as init_image (its hash must be the"
                " recorded one)"
            )
        again = {key: metadata[key] for key in ("width", "height", "num_steps", "guidance", "seed", "prompt")}
        return self.generate_image(
            **again, init_image=init_image, image2image_strength=metadata.get("image2image_strength", 0.0)
        )

    def _check_painter(self, metadata: dict) -> None:
        """That this model is the one that painted a picture, and whether this version is."""
        if metadata["model"] != self.name:
            raise ValueError(
                f"the picture was painted by {metadata['model']!r}, this generator is {self.name!r}: make"
                f" {type(self).__name__}({metadata['model']!r})"
            )
        if metadata["version"] != flux_edu.__version__:
            advise(f"painted by flux_edu {metadata['version']}, this is {flux_edu.__version__}: it may look different")

    @torch.inference_mode()
    def _encode(self, x: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 C h w"]:
        with self._here(self.ae):
            return self.ae.encode(x.to(self.device, next(self.ae.parameters()).dtype)).float()

    def _here(self, *parts: nn.Module) -> AbstractContextManager:
        """The parts on the device: where all have room they are there, else they come now and make room afterwards."""
        away = [part for part in parts if next(part.parameters()).device.type != self.device.type]
        return on_device(self.device, *away) if away else nullcontext()

    @staticmethod
    def _options(
        prompt: str, width: int, height: int, num_steps: int, guidance: float, seed: int | None
    ) -> SamplingOptions:
        """With a seed drawn where none was asked for."""
        seed = secrets.randbelow(2**31) if seed is None else seed
        return SamplingOptions(prompt, width, height, num_steps, guidance, seed)

    def _check(self, opts: SamplingOptions, init_image: Image.Image | None = None, strength: float = 0.0) -> None:
        if not isinstance(opts.prompt, str):
            raise TypeError(f"prompt is a {type(opts.prompt).__name__}; pass one text, each call paints one picture")
        if not 0 <= opts.seed < 2**63:
            raise ValueError(f"seed = {opts.seed}: choose one from 0 to 2**63 - 1, or None to have one drawn")
        if not math.isfinite(opts.guidance):
            raise ValueError(f"guidance = {opts.guidance}: it must be a finite number; {self.spec.guidance} is usual")
        if init_image is not None and not isinstance(init_image, Image.Image):
            raise TypeError(
                f"init_image is a {type(init_image).__name__}; pass a PIL picture, e.g. PIL.Image.open(path)"
            )
        for embedder in (self.t5, self.clip):
            advise_cut(embedder, opts.prompt)
        if not 0 <= strength <= 1:
            raise ValueError(
                f"image2image_strength = {strength}: it must lie in [0, 1]; 0 keeps the start picture, 1 ignores it"
            )
        if init_image is None and strength:
            advise(f"image2image_strength = {strength} does nothing without init_image")
        if self.vocabulary and (unknown := unknown_words(opts.prompt, self.vocabulary)):
            nearest = {word: f" (nearest: {', '.join(near)})" if near else "" for word, near in unknown.items()}
            told = ", ".join(f"{word!r}{near}" for word, near in nearest.items())
            advise(f"the {self.name} model has never seen {told}. It paints something all the same.")


def round_size(width: int, height: int) -> tuple[int, int]:
    """Both sides rounded down to multiples of 16, the pixels of a token; says so if that changes them."""
    if min(width, height) < PIXELS_PER_TOKEN:
        raise ValueError(f"{width} × {height} pixels: both sides must be at least 16, the size of one token")
    rounded = width // PIXELS_PER_TOKEN * PIXELS_PER_TOKEN, height // PIXELS_PER_TOKEN * PIXELS_PER_TOKEN
    if rounded != (width, height):
        advise(f"sizes are multiples of 16: painting {rounded[0]} × {rounded[1]} instead of {width} × {height}")
    return rounded
