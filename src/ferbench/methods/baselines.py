"""The baselines by name: general semi-supervised ones, those for faces, and plug-ins for unequal classes."""

from __future__ import annotations

from ferbench.methods.base import Learner, Method, PlugIn
from ferbench.methods.faces.eac import EAC
from ferbench.methods.faces.lion import LION
from ferbench.methods.faces.marginmix import MarginMix
from ferbench.methods.faces.progressive_teacher import ProgressiveTeacher
from ferbench.methods.faces.rul import RUL
from ferbench.methods.faces.scn import SCN
from ferbench.methods.general.adamatch import AdaMatch
from ferbench.methods.general.ccssl import CCSSL
from ferbench.methods.general.comatch import CoMatch
from ferbench.methods.general.dash import Dash
from ferbench.methods.general.defixmatch import DeFixMatch
from ferbench.methods.general.flexmatch import FlexMatch
from ferbench.methods.general.freematch import FreeMatch
from ferbench.methods.general.mean_teacher import MeanTeacher
from ferbench.methods.general.mixmatch import MixMatch
from ferbench.methods.general.pi_model import PiModel
from ferbench.methods.general.pseudo_label import PseudoLabel
from ferbench.methods.general.remixmatch import ReMixMatch
from ferbench.methods.general.simmatch import SimMatch
from ferbench.methods.general.softmatch import SoftMatch
from ferbench.methods.general.uda import UDA
from ferbench.methods.general.vat import VAT
from ferbench.methods.imbalanced.abc_balanced import ABC
from ferbench.methods.imbalanced.adsh import Adsh
from ferbench.methods.imbalanced.cpe import CPE
from ferbench.methods.imbalanced.inpl import InPL

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
