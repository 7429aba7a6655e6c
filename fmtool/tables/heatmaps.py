"""The tables of a heat map: errors as a whole, at the worst frequencies, over radial bands, and on filtered images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fmtool.errors import ArtifactError
from fmtool.masks.basis import basis_for
from fmtool.masks.registry import FILTERS, FOURIER
from fmtool.tables.headers import Arrays, Header
from fmtool.tables.table import ENDS, Cell, Table, interval

if TYPE_CHECKING:
    from fmtool.masks.radial import Estimate

WORST = 5  # frequencies that are named
AGREE = 1e-9  # intervals of shares below this width are points that differ by rounding only


def heatmap_tables(header: Header, arrays: Arrays) -> list[Table]:
    """All of them. ArtifactError where the maps don't fit the size of the images."""
    tables = [heatmap_table(header, arrays), worst_table(header, arrays), bands_table(header, arrays)]
    return [*tables, *([filters_table(header, arrays)] if header["filters"] else [])]


def heatmap_table(header: Header, arrays: Arrays) -> Table:
    """One row: errors on clean images, and the mean over all frequencies of the full spectrum."""
    import numpy as np

    check_maps(header, arrays)
    basis = basis_for(FOURIER, *header["image_size"])
    clean = np.asarray(arrays["clean_wrong"][:])
    error, loss = (np.asarray(arrays[name][:]).astype(float) for name in ("error_rate", "mean_loss"))
    columns = {
        "n": "d",
        "norm": ".4g",
        "clean error %": ".2f",
        "mean error %": ".2f",
        "lowest %": ".2f",
        "highest %": ".2f",
        "mean loss": ".3f",
    }
    with np.errstate(all="ignore"):  # losses that are not finite
        mean, mean_loss = (float((values * basis.counts).sum() / basis.entries) for values in (error, loss))
    row = [
        len(clean),
        header["norm"],
        100 * float(clean.mean()) if len(clean) else None,
        100 * mean,
        100 * float(error.min()),
        100 * float(error.max()),
        mean_loss,
    ]
    notes = [
        "errors under noise of one frequency at a time, of this l2 norm in each channel, clipped to [0, 1]; mean: over all "
        "frequencies of the full spectrum."
    ]
    return Table("Fourier heat map", columns, [row], notes)


def worst_table(header: Header, arrays: Arrays) -> Table:
    """The frequencies with the highest error rates, then those with the highest losses; each once of a pair k and -k."""
    import numpy as np

    from fmtool.masks.radial import share_interval

    check_maps(header, arrays)
    h, w = header["image_size"]
    n, counts = len(arrays["clean_wrong"]), basis_for(FOURIER, h, w).counts
    error, loss = (np.asarray(arrays[name][:]).astype(float) for name in ("error_rate", "mean_loss"))
    down, across = np.fft.fftfreq(h), np.fft.rfftfreq(w)
    places = [(y, x) for y in range(h) for x in range(w // 2 + 1) if not (counts[x] == 1 and 2 * y > h)]
    places.sort(key=lambda place: (-error[place], -loss[place], place))
    columns = {"down": ".4f", "across": ".4f", "radius": ".4f", "error %": ".2f", "95 %": ".", "mean loss": ".3f"}
    rows: list[list[Any]] = []
    for y, x in places[:WORST]:
        low, high = share_interval(float(error[y, x]), n)
        rows.append([
            float(down[y]), float(across[x]), float(np.hypot(down[y], across[x])), 100 * float(error[y, x]),
            _per_cent(low, high), float(loss[y, x]),
        ])  # fmt: skip
    note = "frequencies in cycles per pixel; each stands for its negative too; 95 %: Wilson's interval over the images."
    return Table("Worst frequencies", columns, rows, [note], {"95 %": ENDS})


def bands_table(header: Header, arrays: Arrays) -> Table:
    """A row for each band of radial frequency: error rate and loss, means over its frequencies, with intervals over images."""
    from fmtool.masks.radial import per_cycle

    bands = band_means(header, arrays)
    columns = {
        "from": ".4f", "to": ".4f", "frequencies": "d", "error %": ".2f", "95 %": ".", "mean loss": ".3f",
    }  # fmt: skip
    rows: list[list[Any]] = []
    half, lowest = 0.5 / per_cycle(*header["image_size"]), 1 / max(header["image_size"])
    for radius, count, error, loss in zip(
        bands.radii, bands.counts, _columns(bands.error), _columns(bands.loss), strict=True
    ):
        ends = (radius - half, radius + half) if radius else (0.0, 0.0)
        if len(rows) == 1:  # the band after zero also holds the lower frequencies that elongated images have
            ends = (min(half, lowest), ends[1])
        rows.append([*ends, count, 100 * error[0], _per_cent(*error[1:]), loss[0]])
    note = (
        "bands of radial frequency in cycles per pixel, the zero frequency alone; frequencies: of the full spectrum; 95 %: mean "
        "+- 1.96 s / sqrt(n) over the images, within 0 and 100; where all images agree, Wilson's interval."
    )
    known, n = bands.loss.n, bands.error.n
    if known < n:
        note += f" Mean loss: over the {known} of {n} images whose logits are finite under noise of every frequency."
    return Table("Errors against radial frequency", columns, rows, [note], {"95 %": ENDS})


def filters_table(header: Header, arrays: Arrays) -> Table:
    """A row for each radius: the accuracy under each of the filters, with Wilson's intervals."""
    from fmtool.masks.radial import share_interval

    filters, n = header["filters"], len(arrays["clean_wrong"])
    columns, parts = {"radius": ".4f"}, {}
    for kind in FILTERS:
        columns |= {f"{kind} %": ".2f", f"{kind} 95 %": "."}
        parts[f"{kind} 95 %"] = ENDS
    rows: list[list[Any]] = []
    for place, radius in enumerate(filters["radii"]):
        row: list[Any] = [radius]
        for counts in (filters["right"][kind] for kind in FILTERS):
            row += [
                100 * counts[place] / n if n else None,
                _per_cent(*share_interval(counts[place] / n if n else 0.0, n)),
            ]
        rows.append(row)
    note = (
        "accuracy on images that ideal filters reduce to radial frequencies up to the radius (low-pass), from it on (high-pass) "
        "or at it (band-pass), in cycles per pixel; 95 %: Wilson's interval over the images."
    )
    return Table("Accuracy on filtered images", columns, rows, [note], parts)


def check_maps(header: Header, arrays: Arrays) -> None:
    """ArtifactError unless the maps have an entry for each frequency of the half spectrum of the images."""
    h, w = header["image_size"]
    for name in ("error_rate", "mean_loss", "wrong", "loss"):
        shape = list(arrays[name].shape[-2:])
        if shape != [h, w // 2 + 1]:
            raise ArtifactError(f"the heat map's {name} is {shape}, which does not fit images of {[h, w]}")


class Bands:
    """radii (bands): centres in cycles per pixel; counts: frequencies of the full spectrum in each; error, loss: estimates."""

    def __init__(self, radii: list[float], counts: list[int], error: Estimate, loss: Estimate) -> None:
        self.radii, self.counts, self.error, self.loss = radii, counts, error, loss


def band_means(header: Header, arrays: Arrays) -> Bands:
    """Means over the frequencies of each band of radial frequency, estimated over the images."""
    import numpy as np

    from fmtool.masks import radial

    check_maps(header, arrays)
    h, w = header["image_size"]
    basis = basis_for(FOURIER, h, w)
    bins = radial.bins_of(basis)
    weights = np.broadcast_to(basis.counts, bins.shape)
    table = np.stack([np.where(bins == band, weights, 0).ravel() for band in range(int(bins.max()) + 1)], axis=1)
    sums = table.sum(axis=0)

    def of(name: str) -> Estimate:
        rows = arrays[name]
        blocks = [np.zeros((0, table.shape[1]))]
        for some in radial.row_blocks(rows):
            values = np.asarray(rows[some]).astype(float)
            with np.errstate(all="ignore"):  # losses that are not finite
                blocks.append(values.reshape(len(values), -1) @ table / sums)
        return radial.estimate(np.concatenate(blocks))

    errors = _shares(of("wrong"))
    return Bands(
        (np.arange(len(sums)) / radial.per_cycle(h, w)).tolist(), sums.astype(int).tolist(), errors, of("loss")
    )


def _shares(estimate: Estimate) -> Estimate:
    """With intervals within [0, 1], and Wilson's where all images agree: s is 0 there, which proves nothing."""
    from fmtool.masks.radial import share_interval

    low, high = estimate.low.clip(0, None), estimate.high.clip(None, 1)
    for band in ((high - low) < AGREE).nonzero()[0].tolist():
        low[band], high[band] = share_interval(float(estimate.mean[band]), estimate.n)
    return replace(estimate, low=low, high=high)


def _columns(found: Estimate) -> list[tuple[float, float, float]]:
    return list(zip(found.mean.tolist(), found.low.tolist(), found.high.tolist(), strict=True))


def _per_cent(low: float, high: float) -> Cell:
    return interval(100 * low, 100 * high, ".2f")
