"""Pictures in and out: every mode, depth and orientation that a user brings is read as it is shown."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flux_edu.apps.tools import ToolGenerator, mask_numbers, read_mask
from flux_edu.io.advice import Advice
from flux_edu.io.images import picture_hash, read_metadata, save_image, to_rgb, to_tensor
from flux_edu.io.options import checked_picture
from flux_edu.pipeline import FluxGenerator

RAMP = np.linspace(0, 1, 64)[None].repeat(8, 0)
ORIENTATION = 0x0112  # its number in EXIF


@pytest.fixture(scope="module")
def tiny() -> FluxGenerator:
    return FluxGenerator("tiny-schnell", "cpu")


@pytest.fixture(scope="module")
def painted(tiny) -> Image.Image:
    return tiny.generate_image(32, 16, 1, 0.0, 5, "a 3d fox")


def load(path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


# ---------------------------------------------------------------- pictures in


@pytest.mark.parametrize(
    ("kind", "white"),
    [*((kind, white) for kind in ("u2", ">u2", "i4", "f4", "f8") for white in (255, 65535)), ("f4", 1), ("f8", 1)],
)
def test_numbers_of_16_and_32_bits_are_read_as_the_ramp_they_are(kind, white, tmp_path):
    wide = Image.fromarray((RAMP * white).astype(kind))
    expected = np.round(RAMP * 255)
    assert np.abs(np.array(to_rgb(wide))[..., 0] - expected).max() <= 1
    assert np.abs(to_tensor(wide)[0, 1].numpy() - (2 * RAMP - 1)).max() < 0.01
    wide.save(tmp_path / "depth.tiff")
    assert picture_hash(load(tmp_path / "depth.tiff")) == picture_hash(wide)
    assert picture_hash(wide) != picture_hash(wide.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_a_depth_map_of_16_bits_is_no_white_square(tmp_path):
    for name, numbers in (("near", RAMP * 30000), ("far", RAMP * 60000)):
        Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / f"{name}.png")
    near, far = (load(tmp_path / f"{name}.png") for name in ("near", "far"))
    assert near.mode == "I;16" and np.array(to_rgb(near)).max() == round(30000 / 257)
    assert picture_hash(near) != picture_hash(far)


@pytest.mark.parametrize(("kind", "white"), [("u2", 65535), ("i4", 65535), ("f4", 1)])
def test_pictures_that_differ_below_8_bits_alone_are_two(kind, white):
    """They paint the same, since 8 bits are read; in 8 bits exactly, a hash is that of the 8-bit picture."""
    coarse = np.arange(256)[None].repeat(8, 0)
    fine = coarse / 255 * white
    fine[4, 100] += 0.001 * white
    narrow, whole, other = (
        Image.fromarray(x) for x in (coarse.astype("u1"), (coarse / 255 * white).astype(kind), fine.astype(kind))
    )
    assert to_rgb(narrow).tobytes() == to_rgb(whole).tobytes() == to_rgb(other).tobytes()
    assert picture_hash(narrow) == picture_hash(whole) != picture_hash(other)


def test_the_picture_that_was_given_is_asked_for_again():
    canny, edges = ToolGenerator("tiny-canny", "cpu"), HOLE.astype(np.uint16) * 65535
    metadata = canny.control(Image.fromarray(edges), "a fox", 1, seed=0).info
    assert canny.repaint(metadata, edges=Image.fromarray(edges)).info == metadata
    edges[0, 0] = 1
    with pytest.raises(ValueError, match="edges is another one"):
        canny.repaint(metadata, edges=Image.fromarray(edges))


@pytest.mark.parametrize("numbers", [[[-1, 5]], [[0, 70000]], [[np.nan, 1]], [[np.inf, 0]]])
def test_numbers_of_no_known_range_are_refused(numbers):
    wide = Image.fromarray(np.array(numbers, np.float32))
    with pytest.raises(ValueError, match="its numbers run from .* black is 0 and white is 1, 255 or 65535"):
        to_rgb(wide)


def test_which_number_is_white_is_said():
    with pytest.warns(Advice, match="edges holds numbers of 32 bits: 0 is read as black, 255 as white"):
        checked_picture("edges", Image.fromarray((RAMP * 80).astype(np.float32)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV", "RGBX", "RGBa"])
def test_every_mode_keeps_its_colours(mode):
    squares = Image.new("RGB", (4, 2), "white")
    squares.paste("black", (0, 0, 2, 2))
    other = squares.convert({"PA": "P", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    off = np.abs(np.array(to_rgb(other), int) - np.array(squares, int)).max()
    assert off == 0 and picture_hash(other) == picture_hash(squares)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(orientation, tmp_path):
    photograph = Image.new("RGB", (6, 4), "white")
    photograph.paste("blue", (0, 0, 6, 1))
    photograph.putpixel((0, 1), (255, 0, 0))
    turns = [None, *(Image.Transpose(i) for i in (0, 3, 1, 5, 4, 6, 2))]  # what viewers do for 1 to 8
    expected = photograph.transpose(turns[orientation - 1]) if turns[orientation - 1] is not None else photograph
    exif = photograph.getexif()
    exif[ORIENTATION] = orientation
    photograph.save(tmp_path / "phone.png", exif=exif)
    opened = load(tmp_path / "phone.png")
    assert to_rgb(opened).tobytes() == expected.tobytes() and to_rgb(opened).size == expected.size
    assert picture_hash(opened) == picture_hash(expected)
    assert picture_hash(load(save_image(opened, tmp_path / "saved.png"))) == picture_hash(expected)


def test_what_is_transparent_shows_white_and_this_is_said(tmp_path):
    icon = Image.new("RGBA", (8, 8))
    icon.paste((255, 120, 0, 255), (2, 2, 6, 6))
    icon.save(tmp_path / "icon.png")
    icon.quantize(8).save(tmp_path / "palette.png")
    icon.convert("LA").save(tmp_path / "grey.png")
    for name in ("icon", "palette", "grey"):
        opened = load(tmp_path / f"{name}.png")
        with pytest.warns(Advice, match="picture is transparent in places, which are read as white"):
            rgb = checked_picture("picture", opened)
        assert rgb.getpixel((0, 0)) == (255, 255, 255) and rgb.getpixel((3, 3)) != (255, 255, 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_picture("picture", Image.new("RGBA", (8, 8), "red"))  # nothing of it is transparent


@pytest.mark.parametrize("exif", [b"", b"x", b"Exif\0\0rubbish", "text", 5])
def test_damaged_exif_stops_nothing(exif, tmp_path):
    picture = Image.new("RGB", (4, 2), "red")
    picture.info["exif"] = exif
    assert to_rgb(picture).size == (4, 2) and save_image(picture, tmp_path / "x.png").is_file()


def test_a_picture_without_pixels_or_cut_short_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the picture has 0 × 5 pixels: there is nothing to see"):
        to_rgb(Image.new("RGB", (0, 5)))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with (
        Image.open(tmp_path / "cut.png") as cut,
        pytest.raises(ValueError, match="of mode RGB, cannot be read as RGB: "),
    ):
        to_rgb(cut)


# ---------------------------------------------------------------- masks

HOLE = np.zeros((16, 32), np.uint8)
HOLE[4:9, 10:25] = 1


def masks() -> dict[str, Image.Image]:
    """The same hole in every way that a user may bring it."""
    white, opaque = Image.fromarray(255 * HOLE), np.full_like(HOLE, 255)
    strokes = Image.fromarray(np.stack([opaque, opaque, opaque, 255 * HOLE], -1))
    ones = {f"0 and 1, {mode}": Image.fromarray(HOLE).convert(mode) for mode in ("L", "RGB", "RGBA", "LA")}
    ones["0 and 1, P"] = Image.fromarray(HOLE).convert("P")
    kinds = (np.bool_, np.uint16, np.int32, np.float32)
    ones |= {f"0 and 1, {np.dtype(kind)}": Image.fromarray(HOLE.astype(kind)) for kind in kinds}
    whole = {mode: white.convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV")}
    wide = {
        "16 bits": Image.fromarray(HOLE.astype(np.uint16) * 65535),
        "float": Image.fromarray(HOLE * np.float32(255)),
    }
    alpha = {"white strokes on a clear ground": strokes, "the same in grey": strokes.convert("LA")}
    return ones | whole | wide | alpha


@pytest.mark.parametrize("name", masks())
def test_a_mask_of_any_mode_is_the_hole_that_it_shows(name):
    assert (mask_numbers(masks()[name], (32, 16))[0, 0].numpy() == HOLE).all()


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(HOLE * 128),
        Image.fromarray(HOLE * np.uint8(2)),
        Image.fromarray(HOLE.astype(np.uint16) * 500),
        Image.fromarray(HOLE.astype(">u2") * 500),
        Image.fromarray(HOLE.astype(np.float32) / 2),
        Image.fromarray(np.stack([HOLE * 0, HOLE * 0, HOLE * 0, HOLE * 255], -1)),  # black strokes
        Image.fromarray(np.stack([HOLE * 255, HOLE * 0, HOLE * 0, HOLE * 255], -1)),  # red ones
        Image.fromarray(np.stack([HOLE * 255, HOLE * 255, HOLE * 255, HOLE * 200], -1)),  # thin ones
    ],
    ids=["128", "2", "16 bits, 500", "the same, big-endian", "0.5", "black strokes", "red strokes", "thin strokes"],
)
def test_a_mask_that_is_refused_gets_advice_that_gives_the_hole(mask):
    with pytest.raises(ValueError, match="the mask (holds|is empty)") as caught:
        read_mask(mask)
    advice = str(caught.value)
    advice = advice[advice.index("Image.fromarray") :].removesuffix(" decides for each pixel")
    better = eval(advice, {"Image": Image, "np": np, "mask": mask})
    assert (mask_numbers(better, (32, 16))[0, 0].numpy() == HOLE).all()


def test_masks_that_differ_in_their_alpha_alone_have_different_hashes():
    fill, picture = ToolGenerator("tiny-fill", "cpu"), Image.new("RGB", (32, 16), "red")
    strokes = masks()["white strokes on a clear ground"]
    metadata = fill.fill(picture, strokes, "a fox", 1, seed=0).info
    assert fill.repaint(metadata, picture=picture, mask=strokes).info == metadata
    assert fill.repaint(metadata, picture=picture, mask=Image.fromarray(255 * HOLE)).info == metadata
    with pytest.raises(ValueError, match="mask is another one"):
        fill.repaint(metadata, picture=picture, mask=Image.new("RGBA", (32, 16), "white"))


# ---------------------------------------------------------------- metadata


def text_chunks(**texts: str) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_itxt(key, text)
    return chunks


def test_other_programs_words_are_not_read(painted, tmp_path):
    opened = load(save_image(painted, tmp_path / "a.png"))
    chunks = text_chunks(**opened.text, Software="GIMP 3.0", Comment="{broken", **{"date:create": "2026-11-30"})
    opened.save(tmp_path / "edited.png", pnginfo=chunks, icc_profile=b"x" * 200, dpi=(72, 72))
    assert read_metadata(tmp_path / "edited.png") == painted.info


def test_opened_and_saved_again_it_says_the_same(tiny, painted, tmp_path):
    path = tmp_path / "a.png"
    for _ in range(3):
        save_image(load(path) if path.exists() else painted, path)
    assert read_metadata(path) == painted.info
    assert tiny.repaint(read_metadata(path)).tobytes() == painted.tobytes()


def test_pixels_that_were_not_painted_carry_no_prompt(tiny, painted, tmp_path):
    """A composite has the `info` of its second picture, a resized or drawn on one that of the first."""
    old = load(save_image(painted, tmp_path / "old.png"))
    new, half = tiny.generate_image(32, 16, 1, 0.0, 77, "a dog"), Image.new("L", (32, 16))
    half.paste(255, (0, 0, 16, 16))
    for changed in (Image.composite(new, old, half), Image.composite(old, new, half), new.resize((64, 32))):
        with pytest.warns(Advice, match="x.png is saved without metadata: its pixels are not those that were painted"):
            save_image(changed, tmp_path / "x.png")
        with pytest.raises(ValueError, match="carries no metadata of flux_edu"):
            read_metadata(tmp_path / "x.png")
    new.rotate(180).save(tmp_path / "turned.png", pnginfo=text_chunks(**old.text))
    with pytest.warns(Advice, match="the pixels of .*turned.png have been changed since it was painted"):
        assert read_metadata(tmp_path / "turned.png")["seed"] == 5


def test_a_file_of_the_first_versions_is_read_with_a_word_about_its_hash(tiny, painted, tmp_path):
    texts = load(save_image(painted, tmp_path / "new.png")).text
    del texts["sha256"]
    old = Image.open(tmp_path / "new.png")
    old.save(tmp_path / "old.png", pnginfo=text_chunks(**texts))
    old.rotate(180).save(tmp_path / "turned.png", pnginfo=text_chunks(**texts))
    save_image(load(tmp_path / "old.png"), tmp_path / "again.png")
    for name in ("old", "turned", "again"):
        with pytest.warns(
            Advice, match=f"{name}.png holds no hash of its pixels, .* whether they were changed is unknown"
        ):
            metadata = read_metadata(tmp_path / f"{name}.png")
        assert metadata == {key: value for key, value in painted.info.items() if key != "sha256"}
    assert tiny.repaint(metadata).tobytes() == painted.tobytes()


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"prompt": json.dumps({"3": {"class_type": "KSampler"}}), "workflow": "{}"},  # ComfyUI
        {"prompt": "a cat"},
        {"prompt": '{"is_changed": [NaN]}'},
        {"parameters": "a cat\nSteps: 20"},  # AUTOMATIC1111
        dict.fromkeys("prompt width height num_steps guidance seed model version timesteps dtype sha256".split(), "{"),
    ],
)
def test_what_others_painted_carries_none_of_ours(texts, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=text_chunks(**texts))
    with pytest.raises(ValueError, match="carries no metadata of flux_edu"):
        read_metadata(tmp_path / "x.png")
    save_image(load(tmp_path / "x.png"), tmp_path / "y.png")


def test_formats_that_keep_no_text_are_named(painted, tmp_path):
    for kind in ("JPEG", "WEBP"):
        painted.save(tmp_path / "x.png", format=kind)  # whatever its name says
        with pytest.raises(ValueError, match=f"x.png is a {kind}, which keeps no metadata of flux_edu: ask the PNG"):
            read_metadata(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="x.png cannot be read as a picture"):
        read_metadata(tmp_path / "x.png")


def test_bytes_in_info_stop_no_saving(painted, tmp_path):
    photograph = Image.new("RGB", (32, 16), "green")
    exif = photograph.getexif()
    exif[0x010E] = "holiday"
    photograph.save(tmp_path / "photograph.jpg", exif=exif, dpi=(72, 72), icc_profile=b"x" * 200)
    photograph = load(tmp_path / "photograph.jpg")
    composite = Image.composite(painted, photograph, Image.new("L", (32, 16), 255))
    for picture in (photograph, composite, Image.new("CMYK", (8, 8)), Image.new("F", (8, 8)), Image.new("HSV", (8, 8))):
        saved = load(save_image(picture, tmp_path / "x.png"))
        assert picture_hash(saved) == picture_hash(picture)
