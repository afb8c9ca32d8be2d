"""The data sets and layouts that `ferbench fake` can generate."""

from __future__ import annotations

from collections.abc import Mapping

from ferbench.bench.data import (
    fake_adience,
    fake_affectnet,
    fake_casia_webface,
    fake_ckplus,
    fake_fer2013,
    fake_ferplus,
    fake_own,
    fake_rafdb,
    fake_sfew,
)
from ferbench.bench.data.fake import Faker

# The first layout of each is the authors' own.
FAKES: Mapping[str, Mapping[str, Faker]] = {
    "ferplus": fake_ferplus.LAYOUTS,
    "rafdb": fake_rafdb.LAYOUTS,
    "affectnet7": fake_affectnet.LAYOUTS,
    "affectnet8": fake_affectnet.LAYOUTS,
    "sfew": fake_sfew.LAYOUTS,
    "ckplus": fake_ckplus.LAYOUTS,
    "fer2013": fake_fer2013.LAYOUTS,
    "adience": fake_adience.LAYOUTS,
    "casia_webface": fake_casia_webface.LAYOUTS,
    "folder": fake_own.FOLDER,
    "csv": fake_own.CSV,
    "faces": fake_own.FACES,
}
