"""From a prompt to a picture: the encoders, the schedule, the sampler and the autoencoder put together."""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

import flux_edu
from flux_edu.configs import get_spec
from flux_edu.io.advice import advise, advise_cut, advise_unknown
from flux_edu.io.device import pick_device
from flux_edu.io.images import check_metadata, picture_hash, to_picture, to_tensor
from flux_edu.io.memory import on_device, place
from flux_edu.io.options import (
    advise_shape,
    check_number,
    check_room,
    check_text_is_enough,
    checked_picture,
    sampling_options,
)
from flux_edu.io.published import load_published
from flux_edu.io.tiny import TINY_FOLDER, load_tiny
from flux_edu.patchify import get_noise, make_txt_ids, patchify, prepare, unpatchify
from flux_edu.sampling import Callback, SamplingOptions, denoise, image_to_image_start
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty


class FluxGenerator:
    """A FLUX with its encoders and autoencoder, ready to paint.

    name is a key of `configs`: "tiny", "tiny-dev" and "tiny-schnell" ship with this package. The published models are
    read from files that you have obtained under their own terms; the environment variables FLUX_MODEL, FLUX_AE
    (safetensors files), FLUX_T5 and FLUX_CLIP (folders as transformers saves them), or FLUX_HOME for all of them, say
    where they are (see `io.published`). A GPU too small for all parts at once gets them one at a time (see
    `io.memory`). device None picks cuda, mps or cpu.
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
        check_text_is_enough(self.name, self.spec)
        options = self.options(prompt, width, height, num_steps, guidance, seed)
        check_number("image2image_strength", image2image_strength, 0, 1, "0 keeps the start picture, 1 ignores it")
        start, metadata = None, {}
        if init_image is not None:
            rgb = checked_picture("init_image", init_image)
            advise_shape("init_image", rgb, options.width, options.height)
            resized = rgb.resize((options.width, options.height), Image.Resampling.LANCZOS)
            start = self.encode(to_tensor(resized)), float(image2image_strength)
            metadata = {"init_image_sha256": picture_hash(init_image), "image2image_strength": start[1]}
        elif image2image_strength:
            advise(f"image2image_strength = {image2image_strength} does nothing without init_image")
        picture = self.paint(options, start, metadata=metadata, callback=callback)
        if not add_sampling_metadata:
            picture.info.clear()
        return picture

    def options(
        self, prompt: str, width: int, height: int, num_steps: int, guidance: float, seed: int | None
    ) -> SamplingOptions:
        """The options, checked; what is worth knowing about them is said as a warning."""
        options = sampling_options(self.spec, prompt, width, height, num_steps, guidance, seed)
        check_room(self.spec, options.width, options.height, self.device)
        for embedder in (self.t5, self.clip):
            advise_cut(embedder, prompt)
        if self.vocabulary:
            advise_unknown(self.name, prompt, self.vocabulary)
        return options

    @torch.inference_mode()
    def paint(
        self,
        options: SamplingOptions,
        start: tuple[Float[Tensor, "1 C h w"], float] | None = None,
        img_cond: Float[Tensor, "1 L_img extra"] | None = None,
        img_cond_seq: tuple[Float[Tensor, "1 L_ref C"], Float[Tensor, "1 L_ref 3"]] | None = None,
        image_states: Float[Tensor, "1 N width"] | None = None,
        metadata: dict | None = None,
        callback: Callback | None = None,
    ) -> Image.Image:
        """From noise to picture, with what else goes in; metadata joins what the `info` says of the options.

        start is an encoded picture and its strength, Eq. (6.3); img_cond and img_cond_seq are those of `denoise`, Eq.
        (12.1) to (12.3); image_states is what Redux makes text of, Eq. (12.4).
        """
        # noise, schedule and text
        noise = get_noise(1, options.height, options.width, self.device, torch.float32, options.seed)
        timesteps = get_schedule(options.num_steps, patchify(noise).shape[1], shift=self.spec.shift)
        with self.on_device(self.t5, self.clip):
            inputs = prepare(self.t5, self.clip, noise, options.prompt)
            uncond = embed_empty(self.t5, self.clip) if self.spec.two_passes else None

        # a start picture moves the start into the schedule, the states of another join the text
        if start is not None:
            latent, timesteps = image_to_image_start(start[0], noise, timesteps, start[1])
            inputs["img"] = patchify(latent)
        dtype = next(self.model.parameters()).dtype
        if image_states is not None:
            redux, states = self.model.redux, image_states.to(dtype)
            inputs["txt"] = redux(inputs["txt"].to(dtype), states)
            inputs["txt_ids"] = make_txt_ids(1, inputs["txt"].shape[1]).to(self.device)
            if uncond is not None:
                uncond = redux(uncond[0].to(dtype), torch.zeros_like(states)), uncond[1]

        # follow the velocity from noise to latent, then decode
        inputs |= {"img_cond": img_cond, "img_cond_seq": img_cond_seq, "uncond": uncond}
        with self.on_device(self.model):
            x = denoise(self.model, **inputs, timesteps=timesteps, guidance=options.guidance, callback=callback)
        z = unpatchify(x, options.height, options.width)
        with self.on_device(self.ae):
            picture = to_picture(self.ae.decode(z.to(next(self.ae.parameters()).dtype))[0])
        by = {"model": self.name, "version": flux_edu.__version__, "timesteps": timesteps, "dtype": str(dtype)}
        picture.info |= asdict(options) | by | {"sha256": picture_hash(picture)} | (metadata or {})
        return picture

    @torch.inference_mode()
    def encode(self, x: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 C h w"]:
        """The latent of a picture, Eq. (8.1), in float32."""
        with self.on_device(self.ae):
            return self.ae.encode(x.to(self.device, next(self.ae.parameters()).dtype)).float()

    def on_device(self, *parts: nn.Module) -> AbstractContextManager:
        """The parts on the device: where all have room they are there, else they come now and make room afterwards."""
        away = [part for part in parts if next(part.parameters()).device.type != self.device.type]
        return on_device(self.device, *away) if away else nullcontext()

    def repaint(self, metadata: dict, init_image: Image.Image | None = None) -> Image.Image:
        """Paint again what `read_metadata` found in a file; bit for bit the same on the same machine and version."""
        check_metadata(metadata)
        if tool := metadata.get("tool"):
            pictures = [key.removesuffix("_sha256") for key in metadata if key.endswith("_sha256")]
            raise ValueError(
                f"the picture was painted by ToolGenerator.{tool} from more than a prompt: make"
                f" flux_edu.apps.tools.ToolGenerator({metadata['model']!r}) and call its repaint(metadata,"
                f" {', '.join(f'{name}=…' for name in pictures)}) with the same {' and '.join(pictures)}"
            )
        self.check_painter(metadata)
        expected = metadata.get("init_image_sha256")
        if expected and (init_image is None or picture_hash(init_image) != expected):
            raise ValueError(
                "the picture began from a start picture: pass the same one as init_image (its hash must be the"
                " recorded one)"
            )
        options = {key: metadata[key] for key in ("width", "height", "num_steps", "guidance", "seed", "prompt")}
        strength = metadata.get("image2image_strength", 0.0)
        return self.generate_image(**options, init_image=init_image, image2image_strength=strength)

    def check_painter(self, metadata: dict) -> None:
        """That this model is the one that painted a picture, and whether this version is."""
        if metadata["model"] != self.name:
            raise ValueError(
                f"the picture was painted by {metadata['model']!r}, this generator is {self.name!r}: make"
                f" {type(self).__name__}({metadata['model']!r})"
            )
        if metadata["version"] != flux_edu.__version__:
            advise(f"painted by flux_edu {metadata['version']}, this is {flux_edu.__version__}: it may look different")
