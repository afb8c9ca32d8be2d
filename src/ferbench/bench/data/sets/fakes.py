"""The data sets and layouts that `ferbench fake` can generate."""

from __future__ import annotations

from collections.abc import Mapping

from ferbench.bench.data.sets.adience import fake as fake_adience
from ferbench.bench.data.sets.affectnet import fake as fake_affectnet
from ferbench.bench.data.sets.casia_webface import fake as fake_casia_webface
from ferbench.bench.data.sets.ckplus import fake as fake_ckplus
from ferbench.bench.data.sets.fake import Faker
from ferbench.bench.data.sets.fer2013 import fake as fake_fer2013
from ferbench.bench.data.sets.ferplus import fake as fake_ferplus
from ferbench.bench.data.sets.own import fake as fake_own
from ferbench.bench.data.sets.rafdb import fake as fake_rafdb
from ferbench.bench.data.sets.sfew import fake as fake_sfew

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
