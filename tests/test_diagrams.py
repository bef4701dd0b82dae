"""The drawings in notebooks/img are those that docs/make/diagrams.py makes, well-formed, and say what they show."""

from pathlib import Path
from xml.etree import ElementTree

import diagrams
import pytest
import torch

from flux_edu.autoencoder import AutoEncoder
from flux_edu.configs import configs

IMG = Path(__file__).parents[1] / "notebooks" / "img"


@pytest.mark.parametrize("name", diagrams.drawings())
def test_files_are_what_the_module_draws(name):
    drawn = diagrams.drawings()[name]
    assert (IMG / name).read_text("utf-8") == drawn, "run `python docs/make/diagrams.py`"
    assert ElementTree.fromstring(drawn).find("{http://www.w3.org/2000/svg}title").text


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="called sofa"):
        diagrams.network(["sofa"])


def test_the_autoencoder_is_drawn_with_the_shapes_of_its_maps():
    """Those that the published halves have for 64 × 64 pixels, run with shapes and no numbers."""
    shapes = {}

    def write_down(module, _, x):
        side = f"/{64 // x.shape[2]}" if x.shape[2] < 64 else ""
        shapes[module] = f"{x.shape[1]} × H{side} × W{side}"

    with torch.device("meta"):
        ae, picture = AutoEncoder(configs["flux-dev"].ae_params), torch.zeros(1, 3, 64, 64)
        for module in ae.modules():
            module.register_forward_hook(write_down)
        ae.decode(ae.encode(picture))
    encoder, decoder = ae.encoder, ae.decoder
    stages = [level.block[-1] for level in encoder.down] + [encoder.mid]
    back = [level.block[-1] for level in decoder.up] + [decoder.mid]
    named = ["3 × H × W", *(shapes[x] for x in stages), shapes[decoder.conv_out], *(shapes[x] for x in back)]
    named += [shapes[encoder.conv_out], "16 × H/8 × W/8"]
    drawing = ElementTree.fromstring(diagrams.autoencoder())
    assert [x.text for x in drawing.iterfind("{*}text[@font-weight='bold']") if "×" in x.text] == named
    texts = [x.text for x in drawing.iterfind("{*}text")]
    for half in (encoder.down, decoder.up):
        assert texts.count(f"{len(half[0].block)} residual blocks") == len(half)
