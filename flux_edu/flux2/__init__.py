"""What FLUX.2 does otherwise: its blocks, ids and shift (`model`), and the family's shapes (`architectures`)."""

from flux_edu.flux2.model import DoubleStreamBlock2 as DoubleStreamBlock2
from flux_edu.flux2.model import Flux2 as Flux2
from flux_edu.flux2.model import Flux2Params as Flux2Params
from flux_edu.flux2.model import SingleStreamBlock2 as SingleStreamBlock2
from flux_edu.flux2.model import SwiGLU as SwiGLU
from flux_edu.flux2.model import empirical_mu as empirical_mu
from flux_edu.flux2.model import make_ids as make_ids
