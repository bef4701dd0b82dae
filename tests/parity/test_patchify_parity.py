"""Patches and ids against those of diffusers' FluxPipeline."""

import pytest
import torch

from flux_edu import patchify

pipeline = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux").FluxPipeline


@pytest.mark.parametrize("batch, channels, h, w", [(2, 16, 10, 14), (1, 3, 2, 22), (3, 5, 34, 6)])
def test_patches_are_theirs(batch, channels, h, w):
    x = torch.randn(batch, channels, h, w)
    tokens = patchify.patchify(x)
    assert torch.equal(tokens, pipeline._pack_latents(x, batch, channels, h, w))
    theirs = pipeline._unpack_latents(tokens, 8 * h, 8 * w, vae_scale_factor=8)
    assert torch.equal(patchify.unpatchify(tokens, 8 * h, 8 * w), theirs)


@pytest.mark.parametrize("h, w", [(5, 7), (1, 300), (64, 3)])
def test_image_ids_are_theirs(h, w):
    theirs = pipeline._prepare_latent_image_ids(1, h, w, "cpu", torch.float32)
    assert torch.equal(patchify.make_img_ids(1, h, w)[0], theirs)
