"""FLUX.1, one equation at a time: a readable package behind numbered notebooks.

Shapes are written once, in the signatures, with these letters:

    B      pictures in the batch            L      tokens (L_txt of text, L_img of image)
    D      width of a token (3072)          H      attention heads (24)
    K      width of one head, d_h = D / H   C      channels of a picture or latent
    h, w   rows and columns of a latent or of its tokens

Conventions everywhere: t = 1 is noise and t = 0 the picture, the velocity is v = noise - picture, text tokens stand
before image tokens, RoPE turns adjacent pairs of channels, a patch is read channel first, and a modulation is
(shift, scale, gate) in this order. The numbers of the equations are those of the notebooks.
"""

__version__ = "0.2.0"
