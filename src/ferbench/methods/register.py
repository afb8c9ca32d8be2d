"""The methods by name: one line each. Nothing of a method is imported before it is asked for.

A learner trains alone or under a plug-in; a plug-in wraps a learner; a partial-label method learns from candidate sets;
the others stand alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from ferbench.errors import UserError
from ferbench.register import Register

if TYPE_CHECKING:
    from ferbench.methods.base import Learner, Method, PlugIn


Variant = Literal["paper", "released", "usb"]


class MethodError(UserError):
    """A method or option that is unknown, or cannot be used like this."""


_LEARNERS = {
    "vanilla": "general.vanilla:Vanilla",
    "fixmatch": "general.fixmatch:FixMatch",
    "adacm": "papers.adacm:AdaCM",
    "flexmatch": "general.flexmatch:FlexMatch",
    "freematch": "general.freematch:FreeMatch",
}
_PLUG_INS = {
    "remop": "papers.remop:ReMoP",
    "leaf": "papers.leaf:LEAF",
    "abc": "imbalanced.abc_balanced:ABC",
    "adsh": "imbalanced.adsh:Adsh",
    "inpl": "imbalanced.inpl:InPL",
}
PARTIAL_LABEL = {
    "pll": "partial_label.pll:PLL",
    "pll_fer": "papers.pll_fer:PLLFER",
    "rc": "partial_label.rc:RC",
    "lw": "partial_label.lw:LW",
    "pico": "partial_label.pico:PiCO",
    "crpll": "partial_label.crpll:CRPLL",
}
_ALONE = {
    "pi_model": "general.pi_model:PiModel",
    "pseudo_label": "general.pseudo_label:PseudoLabel",
    "vat": "general.vat:VAT",
    "uda": "general.uda:UDA",
    "mean_teacher": "general.mean_teacher:MeanTeacher",
    "mixmatch": "general.mixmatch:MixMatch",
    "remixmatch": "general.remixmatch:ReMixMatch",
    "defixmatch": "general.defixmatch:DeFixMatch",
    "dash": "general.dash:Dash",
    "comatch": "general.comatch:CoMatch",
    "simmatch": "general.simmatch:SimMatch",
    "adamatch": "general.adamatch:AdaMatch",
    "softmatch": "general.softmatch:SoftMatch",
    "ccssl": "general.ccssl:CCSSL",
    "marginmix": "faces.marginmix:MarginMix",
    "lion": "faces.lion:LION",
    "progressive_teacher": "faces.progressive_teacher:ProgressiveTeacher",
    "cpe": "imbalanced.cpe:CPE",
    "scn": "faces.scn:SCN",
    "rul": "faces.rul:RUL",
    "eac": "faces.eac:EAC",
    "ssfer": "papers.ssfer:SSFER",
}


def _placed(places: dict[str, str]) -> dict[str, str]:
    return {name: f"ferbench.methods.{place}" for name, place in places.items()}


PAPERS = ("remop", "leaf", "adacm", "ssfer", "pll_fer")  # the five papers' own; the others are what they compare with

LEARNERS: Register[type[Learner]] = Register("learner", _placed(_LEARNERS), MethodError)
PLUG_INS: Register[type[PlugIn]] = Register("plug-in", _placed(_PLUG_INS), MethodError)
METHODS: Register[type[Method]] = Register(
    "method", _placed(_LEARNERS | _PLUG_INS | PARTIAL_LABEL | _ALONE), MethodError
)


def register(name: str, method: type[Method] | str, kind: str = "alone") -> None:
    """Add a method from outside the package.

    method: the class, or its place as "MODULE:CLASS"
    kind: "learner", "plug-in" or "alone". Raises MethodError for a name that is taken.
    """
    METHODS.add(name, method)
    if kind == "learner":
        LEARNERS.add(name, cast("type[Learner] | str", method))
    elif kind == "plug-in":
        PLUG_INS.add(name, cast("type[PlugIn] | str", method))
