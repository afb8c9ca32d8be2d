"""What `ferbench prepare` found, as text for a person and as plain values for a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ferbench.bench.data.faceset import PARTS, FaceSet

SHOWN = 20  # differences that the text lists
SIZES = 8  # sizes of image files that it lists
_VERSION = {True: "  published version", False: "  NOT a known version", None: ""}


@dataclass(frozen=True)
class CountRow:
    """Images of one class (or another line of the table), per part of PARTS; `published` None where not known."""

    name: str
    found: tuple[int, ...]
    published: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LabelFileNote:
    """A label file that was read: path, SHA-256 of its content, and whether that is the published version.

    known: None where no published version is known
    """

    path: str
    sha256: str
    known: bool | None


@dataclass(frozen=True)
class PreparedReport:
    """A data set after preparation, under one set of reader options.

    layout:      what kind of copy was recognised
    counts:      images per class and part, in the unit that `counts_of` names
    differences: where the copy departs from the published counts, one line each
    notices:     what else the user should know, one line each
    decoded_s:   seconds spent decoding when the cache was made (None: nothing was decoded); `cached`: not in this call
    folder:      where the prepared copy lies, None where the data set needs none
    warnings:    what may be wrong, but is not known to be, one line each
    unreadable:  the first images that could not be decoded, with the reason
    sizes:       images per size and mode of their files, such as "100x100 RGB"
    pixels:      the fingerprint of all stored images
    decoding:    how they became the stored squares: size, resize, crop, boxes from, colour order
    """

    dataset: str
    root: str | None
    layout: str
    options: Mapping[str, str | int | float | bool]
    classes: tuple[str, ...]
    images: int
    train: int
    test: int
    counts_of: str
    counts: tuple[CountRow, ...]
    label_files: tuple[LabelFileNote, ...]
    differences: tuple[str, ...]
    notices: tuple[str, ...]
    decoded_s: float | None
    cached: bool
    fingerprint: str
    folder: str | None
    warnings: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    decoding: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    pixels: str = ""

    def text(self) -> str:
        """The report as `ferbench prepare` prints it; no trailing newline."""
        lines = [f"{self.dataset}: {self.layout}" + (f" at {self.root}" if self.root else "")]
        lines += [f"  {note.path}  sha256 {note.sha256[:12]}{_VERSION[note.known]}" for note in self.label_files]
        lines.append("options: " + " ".join(f"{key}={value}" for key, value in self.options.items()))
        lines.append("classes: " + " ".join(f"{index}={name}" for index, name in enumerate(self.classes)))
        lines += ["", *self._table()]
        lines += self._files()
        lines += [f"notice: {notice}" for notice in self.notices]
        lines += [f"WARNING: {warning}" for warning in self.warnings[:SHOWN]]
        lines += [f"DIFFERS: {difference}" for difference in self.differences[:SHOWN]]
        if len(self.differences) > SHOWN:
            lines.append(f"DIFFERS: and {len(self.differences) - SHOWN} more")
        lines += ["", f"{self.images:,} images; train {self.train:,}, test {self.test:,}"]
        if self.decoded_s is not None:
            rate = self.images / max(self.decoded_s, 1e-9)
            lines.append(
                f"decoded in {self.decoded_s:.1f} s, {rate:,.0f} images/s" + (" (earlier)" if self.cached else "")
            )
        lines.append(f"fingerprint {self.fingerprint}" + (f", pixels {self.pixels}" if self.pixels else ""))
        if self.folder:
            lines.append(f"prepared copy {self.folder}")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """The same as plain values, ready for `json.dumps`."""
        return asdict(self) | {"options": dict(self.options), "parts": list(PARTS)}

    def _files(self) -> list[str]:
        """What the image files are, and how they are stored."""
        lines = []
        if self.sizes:
            listed = [f"{size} {count:,}" for size, count in list(self.sizes.items())[:SIZES]]
            more = [f"and {len(self.sizes) - SIZES:,} more sizes"] if len(self.sizes) > SIZES else []
            lines.append("files: " + ", ".join([*listed, *more]))
        if self.decoding:
            known = ((key, value) for key, value in self.decoding.items() if value is not None)
            lines.append(
                "stored: "
                + ", ".join(
                    f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in known
                )
            )
        return lines + [f"unreadable: {image}" for image in self.unreadable[:SHOWN]]

    def _table(self) -> list[str]:
        """Counts with the published number in brackets where it is another."""
        width = max(len(self.counts_of), *(len(row.name) for row in self.counts), 0)
        lines = [f"{self.counts_of:<{width}}" + "".join(f"{part:>16}" for part in PARTS)]
        for row in self.counts:
            published = row.published or row.found
            cells = (
                f"{found:,}" + (f" [{wanted:,}]" if wanted != found else "")
                for found, wanted in zip(row.found, published, strict=True)
            )
            lines.append(f"{row.name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
        return lines


def describe(data: FaceSet, *, layout: str) -> PreparedReport:
    """The report on a data set of which nothing is known but the face set itself."""
    return PreparedReport(
        dataset=data.name,
        root=None,
        layout=layout,
        options=data.options,
        classes=data.classes,
        images=len(data.images),
        train=len(data.train),
        test=len(data.test),
        counts_of="images",
        counts=tuple(
            CountRow(name, tuple(int(((data.labels == k) & (data.parts == part)).sum()) for part in range(len(PARTS))))
            for k, name in enumerate(data.classes)
        ),
        label_files=(),
        differences=(),
        notices=(),
        decoded_s=None,
        cached=False,
        fingerprint=data.fingerprint,
        folder=None,
        pixels=data.pixels,
    )
