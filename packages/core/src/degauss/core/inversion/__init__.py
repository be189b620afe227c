"""Inversion: from data back to the noise that makes it, exactly where the method allows it, and guarded where not."""

from degauss.core.inversion.ddim import DDIMInversion, InverseDDIM
from degauss.core.inversion.dpm_encoder import Replay, dpm_decode, dpm_encode
from degauss.core.inversion.edict import EDICT
from degauss.core.inversion.encode import Invertible, Latent, decode, encode
from degauss.core.inversion.guard import Guarded, check_precision
from degauss.core.inversion.two_state import BDIA, BELM

__all__ = [
    "BDIA",
    "BELM",
    "EDICT",
    "DDIMInversion",
    "Guarded",
    "InverseDDIM",
    "Invertible",
    "Latent",
    "Replay",
    "check_precision",
    "decode",
    "dpm_decode",
    "dpm_encode",
    "encode",
]
