"""Chapter 12, the tools ready to paint: each method against the equations, its metadata, its answers to mistakes.

The deltas here are small and random, in the layout of the trained ones: what is tested is how a picture gets into
the network, not what the trained tools make of it.
"""

import copy
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from evaluate_tools import paint_with
from PIL import Image, ImageDraw

from flux_edu import pipeline, tools
from flux_edu.apps.tools import TOOLS, ToolGenerator, load_judge, mask_numbers, outline
from flux_edu.configs import configs
from flux_edu.io import published, tiny
from flux_edu.io.advice import Advice, collect
from flux_edu.io.checkpoint import read, save
from flux_edu.io.images import picture_hash, read_metadata, save_image, to_picture, to_tensor
from flux_edu.patchify import patchify
from flux_edu.pipeline import FluxGenerator
from flux_edu.schedule import get_schedule
from flux_edu.text import embed_empty

NAMES = ("fill", "canny", "kontext", "redux")
SHORT = {"num_steps": 2, "guidance": 2.0, "seed": 5}


def random_delta(name: str) -> dict[str, torch.Tensor]:
    """A rank of two in the entrance and in one block; for Redux its small network too."""
    torch.manual_seed(len(name))
    params = configs[f"tiny-{name}"].params
    D = params.hidden_size
    shapes = {"img_in": (D, params.in_channels), "double_blocks.0.img_attn.qkv": (3 * D, D)}
    pairs = {f"{key}.lora_A.weight": 0.1 * torch.randn(2, shape[1]) for key, shape in shapes.items()}
    pairs |= {f"{key}.lora_B.weight": 0.1 * torch.randn(shape[0], 2) for key, shape in shapes.items()}
    own = tools.Redux(104, params.context_in_dim).state_dict() if name == "redux" else {}
    return pairs | {f"redux.{key}": x for key, x in own.items()}


@pytest.fixture(scope="module")
def generators(tmp_path_factory) -> dict[str, ToolGenerator]:
    """The four tiny tools, from a folder as the shipped one is."""
    folder = tmp_path_factory.mktemp("tiny")
    for file in ("t5", "clip", "flux", "ae"):
        shutil.copy(tiny.TINY_FOLDER / f"{file}.safetensors", folder)
    for file in ("tokenizer.json", "vocabulary.json"):
        shutil.copy(tiny.TINY_FOLDER / file, folder)
    for name in NAMES:
        save(random_delta(name), folder / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TINY_FOLDER", folder)
        return {name: ToolGenerator(f"tiny-{name}", "cpu") for name in NAMES}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    drawn = Image.new("RGB", (128, 128), (253, 216, 80))
    ImageDraw.Draw(drawn).ellipse((20, 30, 90, 100), fill=(214, 48, 49))
    return drawn


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    drawn = Image.new("L", (128, 128))
    ImageDraw.Draw(drawn).rectangle((30, 41, 71, 99), fill=255)
    return drawn


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and a.tobytes() == b.tobytes()


def paint(generators, name: str, picture: Image.Image, mask: Image.Image, **options) -> Image.Image:
    options = SHORT | options
    calls = {
        "fill": lambda tool: tool.fill(picture, mask, "a 3d fox", **options),
        "canny": lambda tool: tool.control(outline(picture), "a 3d fox", **options),
        "kontext": lambda tool: tool.edit(picture, "make the background blue", **options),
        "redux": lambda tool: tool.redux(picture, "in 3d style", **options),
    }
    return calls[name](generators[name])


# ---------------------------------------------------------------- what is painted


def text_and_inputs(
    generator: ToolGenerator, name: str, picture: Image.Image, mask: Image.Image
) -> tuple[str, torch.Tensor]:
    """The text and what the network reads beside it, by the equations alone."""
    x, m = to_tensor(picture), torch.from_numpy(np.array(mask) / 255)[None, None].float()
    encode = generator.ae.encode
    with torch.no_grad():
        if name == "fill":
            return "a 3d fox", torch.cat([patchify(encode(x * (1 - m))), patchify(tools.pack_mask(m))], dim=-1)
        if name == "canny":
            return "a 3d fox", patchify(encode(tools.canny(x[0])[None]))
        if name == "kontext":
            return "make the background blue", patchify(encode(x))
        return "in 3d style", load_judge(torch.device("cpu")).judge.encode_image(x)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_tool_paints_what_its_training_measures(generators, picture, mask, name, guidance):
    """`paint_with` of the measure puts the same equations together, for batches."""
    tool = generators[name]
    words, beside = text_and_inputs(tool, name, picture, mask)
    with torch.inference_mode():
        text, empty = (tool.t5([words]), tool.clip([words])), embed_empty(tool.t5, tool.clip)
    theirs = paint_with(name, tool.model, tool.ae, text, empty, beside, guidance, steps=2, seed=5)
    ours = paint(generators, name, picture, mask, guidance=guidance)
    off = np.abs(np.array(to_picture(theirs[0]), dtype=int) - np.array(ours, dtype=int))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3  # a sum in another order may round otherwise
    assert tool.model.redux is not None if name == "redux" else not hasattr(tool.model, "redux")


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_paints_almost_the_same_in_16_bits(generators, picture, mask, name):
    fine, tool = paint(generators, name, picture, mask), copy.deepcopy(generators[name])
    tool.model.bfloat16()
    tool.ae.bfloat16()
    coarse = paint({name: tool}, name, picture, mask)
    assert coarse.info["dtype"] == "torch.bfloat16"
    assert np.abs(np.array(coarse, dtype=int) - np.array(fine, dtype=int)).mean() < 8  # of 255


@pytest.mark.parametrize("name", NAMES)
def test_what_is_given_makes_a_difference(generators, picture, mask, name):
    first = paint(generators, name, picture, mask)
    assert first.size == (128, 128)
    assert same(first, paint(generators, name, picture, mask))
    assert not same(first, paint(generators, name, picture.rotate(90), mask))
    assert not same(first, paint(generators, name, picture, mask, seed=6))


def test_the_hole_is_what_is_white(generators, picture, mask):
    inside = picture.copy()
    inside.paste((20, 20, 20), (40, 50, 60, 80))  # what the hole covers is not seen
    fill = generators["fill"]
    assert same(fill.fill(picture, mask, "a fox", **SHORT), fill.fill(inside, mask, "a fox", **SHORT))
    assert torch.equal(mask_numbers(mask, (128, 128))[0, 0], torch.from_numpy(np.array(mask) / 255).float())


@pytest.mark.parametrize("name", ["fill", "canny"])
def test_a_size_that_the_memory_cannot_hold_is_refused_before_a_number_is_read(generators, name, monkeypatch):
    monkeypatch.setattr("flux_edu.io.options.total_memory", lambda device: 2**20)
    monkeypatch.setattr("flux_edu.apps.tools.to_tensor", None)
    large = Image.new("RGB", (256, 256))
    call = {"fill": lambda tool: tool.fill(large, large, ""), "canny": lambda tool: tool.control(large, "")}[name]
    with pytest.raises(ValueError, match="256 × 256 pixels: decoding them takes .* choose a smaller size"):
        call(generators[name])


@pytest.mark.parametrize("name", ["fill", "canny"])
def test_other_sizes(generators, picture, mask, name):
    wide, hole = picture.resize((96, 48)), mask.resize((96, 48), Image.Resampling.NEAREST)
    painted = paint(generators, name, wide, hole, num_steps=1)
    assert painted.size == (96, 48) and painted.info["width"] == 96


def test_other_sizes_are_resized_where_the_tool_knows_one(generators, picture, mask):
    for name, words in (("kontext", "tiny-kontext edits it at 128 × 128"), ("redux", "the eye sees it at 128 × 128")):
        with pytest.warns(Advice, match=f"the picture has 200 × 100 pixels; {words}") as caught:
            painted = paint(generators, name, picture.resize((200, 100)), mask, num_steps=1)
        assert painted.size == (128, 128) and [w.filename for w in caught] == [__file__]


def test_defaults_are_those_of_the_model(generators, picture, monkeypatch):
    tool = generators["kontext"]
    monkeypatch.setattr(tool, "spec", replace(tool.spec, num_steps=3, guidance=1.5))
    steps = []
    metadata = tool.edit(picture, "swap left and right", callback=lambda i, t, x, v: steps.append(t)).info
    assert (metadata["num_steps"], metadata["guidance"]) == (3, 1.5) and steps == get_schedule(3, 64)[:-1]
    assert isinstance(metadata["seed"], int)


def test_outlines_of_any_picture(picture):
    edges = outline(picture)
    assert edges.size == picture.size and edges.mode == "RGB" and set(np.array(edges).flatten()) == {0, 255}
    assert same(edges, outline(picture.convert("RGBA")))
    assert np.array(outline(picture, 900, 3000)).sum() == 0


# ---------------------------------------------------------------- metadata


@pytest.mark.parametrize(
    "name, tool", [("fill", "fill"), ("canny", "control"), ("kontext", "edit"), ("redux", "redux")]
)
def test_a_saved_picture_tells_what_it_was_made_from_and_is_painted_again(
    generators, picture, mask, name, tool, tmp_path
):
    painted = paint(generators, name, picture, mask)
    metadata = read_metadata(save_image(painted, tmp_path / "x.png"))
    pictures = {"fill": {"picture": picture, "mask": mask}, "canny": {"edges": outline(picture)}}
    pictures = pictures.get(name, {"picture": picture})
    prompt = {"kontext": "make the background blue", "redux": "in 3d style"}.get(name, "a 3d fox")
    assert metadata == {
        "prompt": prompt,
        **{"width": 128, "height": 128, "timesteps": get_schedule(2, 64), "dtype": "torch.float32"},
        **SHORT,
        "sha256": picture_hash(painted),
        **{"model": f"tiny-{name}", "version": pipeline.flux_edu.__version__, "tool": tool},
        **{f"{key}_size": [128, 128] for key in pictures},
        **{f"{key}_sha256": picture_hash(value) for key, value in pictures.items()},
    }
    assert same(generators[name].repaint(metadata, **pictures), painted)
    first = next(iter(pictures))
    with pytest.raises(ValueError, match=f"painted by {tool} from .*pass the same ones again; {first} is missing"):
        generators[name].repaint(metadata, **(pictures | {first: None}))
    with pytest.raises(ValueError, match=rf"{first} is another one \(its hash differs\)"):
        generators[name].repaint(metadata, **(pictures | {first: pictures[first].rotate(90)}))
    with pytest.raises(ValueError, match=r"painted by 'tiny-x'.*make ToolGenerator\('tiny-x'\)"):
        generators[name].repaint(metadata | {"model": "tiny-x"}, **pictures)


def test_a_plain_generator_says_who_can_paint_it_again(generators, picture, mask):
    metadata = paint(generators, "fill", picture, mask, num_steps=1).info
    with pytest.raises(ValueError) as error:
        FluxGenerator.repaint(generators["fill"], metadata)
    for part in (
        "painted by ToolGenerator.fill from more than a prompt",
        "ToolGenerator('tiny-fill') and call its repaint(metadata, picture=…, mask=…) with the same picture and mask",
    ):
        assert part in str(error.value)


def test_a_tool_repaints_what_needs_no_pictures(generators):
    kontext = generators["kontext"]
    painted = kontext.generate_image(32, 32, 1, 1.0, 3, "a fox")
    assert same(kontext.repaint(painted.info), painted)


# ---------------------------------------------------------------- mistakes


def test_every_tool_of_the_configurations_can_do_something():
    able = [name for names in TOOLS.values() for name in names]
    assert len(set(able)) == len(able) and set(able) <= set(configs)
    plain = {"flux-dev", "flux-dev-krea", "flux-schnell", "flux-dev-redux", "tiny", "tiny-dev", "tiny-schnell"}
    assert set(configs) - set(able) == plain
    for tool, channels in (("fill", 384), ("control", 128), ("edit", 64), ("redux", 64)):
        assert {configs[name].params.in_channels for name in TOOLS[tool]} == {channels}


def test_the_published_redux_needs_siglip(generators, picture, monkeypatch):
    monkeypatch.setattr(generators["kontext"], "name", "flux-dev")
    monkeypatch.setattr(generators["kontext"], "spec", configs["flux-dev"])
    with pytest.raises(ValueError, match="sees with SigLIP"):
        generators["kontext"].redux(picture)


def test_the_judge_says_what_it_is(generators, picture, monkeypatch):
    """So the network is told a name where it was asked about "it", and painting from `info` gives the same picture."""
    fox, apple = ({"en": ["fox", "fox face"], "zh": "狐狸"}, {"en": ["red apple"], "zh": "红苹果"})
    bench = load_judge(torch.device("cpu"))
    seen = {(0,): [fox], (1,): [fox, apple]}
    kontext = generators["kontext"]
    for things, asked, instruction in (
        ((0,), "turn it into 3d style", "turn the fox into 3d style"),
        ((1,), "turn it into 3d style", "turn the fox and the red apple into 3d style"),
        ((1,), "变成立体风格", "把狐狸和红苹果变成立体风格"),
        ((0,), "remove it", "remove the fox"),
        ((0,), "make the white background blue", "make the white background blue"),
    ):
        monkeypatch.setattr(bench, "things", lambda x, things=things: [seen[things]])
        painted = kontext.edit(picture, asked, num_steps=1, seed=5)
        assert painted.info["prompt"] == instruction
        assert same(painted, kontext.repaint(painted.info, picture=picture))
        monkeypatch.setattr(bench, "things", None)  # whoever names the things need not ask
        assert same(painted, kontext.edit(picture, instruction, num_steps=1, seed=5))


def test_words_of_instructions_are_known_and_others_are_told(generators, picture, mask):
    said = ["make the background blue", "turn it into 3d style", "remove the dog", "swap top and bottom", "去掉狗"]
    said += ["把背景变成红色", "变成立体风格", "左右互换"]
    with collect() as collected:
        for instruction in said:
            generators["kontext"].edit(picture, instruction, num_steps=1)
        generators["redux"].redux(picture, "in flat style on a red background", num_steps=1)
    assert not collected
    with pytest.warns(Advice, match=r"the tiny-kontext model has never seen 'removve' \(nearest: remove"):
        generators["kontext"].edit(picture, "removve the dog", num_steps=1)
    with pytest.warns(Advice, match="the tiny-fill model has never seen 'swap'"):
        generators["fill"].fill(picture, mask, "swap left and right", num_steps=1)


def test_pictures_that_are_no_outlines_are_told(generators, picture):
    edges, canny = outline(picture), generators["canny"]
    grey = Image.fromarray(rearrange(np.arange(128 * 128) % 128, "(h w) -> h w", h=128).astype(np.uint8))
    for wrong, words in ((edges.point(lambda v: 255 - v), "mostly light"), (grey, "many greys.*apps.tools.outline")):
        with pytest.warns(Advice, match=words):
            canny.control(wrong, "a fox", num_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canny.control(edges, "a fox", num_steps=1)


# ---------------------------------------------------------------- the published ones


@pytest.fixture
def published_tool(generators, monkeypatch, tmp_path):
    """Makes a tool of a published name from small files in the published layout, told its guidance in one pass."""
    plain = generators["kontext"]
    monkeypatch.setattr(published, "CLIP_TOKENS", plain.spec.txt_tokens)
    for part, key in ((plain.t5, "FLUX_T5"), (plain.clip, "FLUX_CLIP")):
        part.encoder.save_pretrained(tmp_path / key)
        part.tokenizer.save_pretrained(tmp_path / key)
        monkeypatch.setenv(key, str(tmp_path / key))
    save({key: x.bfloat16() for key, x in plain.ae.state_dict().items()}, tmp_path / "ae.safetensors")
    monkeypatch.setenv("FLUX_AE", str(tmp_path / "ae.safetensors"))
    guidance_in = {
        key.replace("time_in", "guidance_in"): x
        for key, x in plain.model.state_dict().items()
        if key.startswith("time_in")
    }

    def make(name: str, of: str) -> ToolGenerator:
        tool = generators[of]
        params = replace(tool.spec.params, guidance_embed=True)
        spec = replace(tool.spec, params=params, repo_id="someone/small", two_passes=False, lora=None)
        monkeypatch.setitem(configs, name, spec)
        state = tool.model.state_dict() | guidance_in
        save({key: x.bfloat16() for key, x in state.items()}, tmp_path / f"{of}.safetensors")
        monkeypatch.setenv("FLUX_MODEL", str(tmp_path / f"{of}.safetensors"))
        return ToolGenerator(name, "cpu")

    return make


def test_published_tools_paint_by_the_same_code(published_tool, picture, mask):
    evaluations = []
    fill = published_tool("flux-dev-fill", "fill")
    fill.model.img_in.register_forward_hook(lambda module, inputs, out: evaluations.append(inputs[0].shape))
    painted = fill.fill(picture, mask, "any foxx", num_steps=2, seed=1, guidance=30.0)
    assert evaluations == [(1, 64, 384)] * 2  # one pass a step, the number is told
    assert painted.info["dtype"] == "torch.bfloat16" and painted.info["model"] == "flux-dev-fill"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # distances are no outlines
        published_tool("flux-dev-depth", "canny").control(picture, "a fox", num_steps=1)


def test_the_published_kontext_has_its_own_sizes(published_tool, picture, monkeypatch):
    monkeypatch.setattr(tools, "KONTEXT_SIZES", ((64, 32), (32, 32), (32, 64)))
    kontext = published_tool("flux-dev-kontext", "kontext")
    with pytest.warns(Advice, match="the picture has 128 × 60 pixels; flux-dev-kontext edits it at 64 × 32"):
        painted = kontext.edit(picture.resize((128, 60)), "make it so", num_steps=1)
    assert painted.size == (64, 32) and painted.info["picture_size"] == [128, 60]


def test_a_wider_entrance_is_the_base_and_the_delta(generators):
    """New columns begin at zero, then the delta is added; all the rest of the base is there too."""
    base = read(tiny.TINY_FOLDER / "flux.safetensors")
    assert torch.equal(generators["fill"].model.txt_in.weight, base["txt_in.weight"])
    weight = generators["fill"].model.img_in.weight
    change = random_delta("fill")
    W = torch.nn.functional.pad(base["img_in.weight"], (0, 320))
    W = W + change["img_in.lora_B.weight"] @ change["img_in.lora_A.weight"]
    torch.testing.assert_close(weight, W)
