"""The baselines by name: general semi-supervised ones, those for faces, and plug-ins for unequal classes."""

from __future__ import annotations

from ferbench.methods.abc_balanced import ABC
from ferbench.methods.adamatch import AdaMatch
from ferbench.methods.adsh import Adsh
from ferbench.methods.base import Learner, Method, PlugIn
from ferbench.methods.ccssl import CCSSL
from ferbench.methods.comatch import CoMatch
from ferbench.methods.cpe import CPE
from ferbench.methods.dash import Dash
from ferbench.methods.defixmatch import DeFixMatch
from ferbench.methods.eac import EAC
from ferbench.methods.flexmatch import FlexMatch
from ferbench.methods.freematch import FreeMatch
from ferbench.methods.inpl import InPL
from ferbench.methods.lion import LION
from ferbench.methods.marginmix import MarginMix
from ferbench.methods.mean_teacher import MeanTeacher
from ferbench.methods.mixmatch import MixMatch
from ferbench.methods.pi_model import PiModel
from ferbench.methods.progressive_teacher import ProgressiveTeacher
from ferbench.methods.pseudo_label import PseudoLabel
from ferbench.methods.remixmatch import ReMixMatch
from ferbench.methods.rul import RUL
from ferbench.methods.scn import SCN
from ferbench.methods.simmatch import SimMatch
from ferbench.methods.softmatch import SoftMatch
from ferbench.methods.uda import UDA
from ferbench.methods.vat import VAT

LEARNERS: dict[str, type[Learner]] = {"flexmatch": FlexMatch, "freematch": FreeMatch}  # plug-ins wrap them
ALONE: dict[str, type[Method]] = {
    "pi_model": PiModel,
    "pseudo_label": PseudoLabel,
    "vat": VAT,
    "uda": UDA,
    "mean_teacher": MeanTeacher,
    "mixmatch": MixMatch,
    "remixmatch": ReMixMatch,
    "defixmatch": DeFixMatch,
    "dash": Dash,
    "comatch": CoMatch,
    "simmatch": SimMatch,
    "adamatch": AdaMatch,
    "softmatch": SoftMatch,
    "ccssl": CCSSL,
    "marginmix": MarginMix,
    "lion": LION,
    "progressive_teacher": ProgressiveTeacher,
    "cpe": CPE,
    "scn": SCN,
    "rul": RUL,
    "eac": EAC,
}
PLUG_INS: dict[str, type[PlugIn]] = {"abc": ABC, "adsh": Adsh, "inpl": InPL}
