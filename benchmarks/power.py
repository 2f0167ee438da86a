"""`python -m benchmarks.power`: how often the drift alarm cries wolf, and how late it comes.

One feature, normal, watched for months at some predictions a day; every month has a baseline of its
own, drawn anew, because a baseline is a sample too. Compared are

    the alarms as they ship  D that is certain and matters (handler/drift/statistic.py), or `Unseen` over
                            what is allowed
    PSI > 0.2               over the same deciles, with a bin of its own for what is missing or new,
                            and 0.0001 in place of an empty share, as is customary
    KS, p < 0.05            two samples, on the raw values that are there

once at these thresholds, and once with thresholds that give all three the same false alarms.

Values are not drawn one by one: each window is a multinomial over CELLS cells of the baseline's
own quantiles, whose chances are what the drift makes of them (a Dirichlet draw is what quantiles of
m uniform values enclose: David and Nagaraja, 2003, Order Statistics, 2.5). Deciles and the KS
distance are read from the same cells. tests/unit/test_power.py shows that counts which went through
the real ranks are distributed alike.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handler.drift import statistic
from handler.drift.statistic import BINS
from handler.manifest import Alarms

SEED = 20250829
CELLS = 200
MONTH = 30
DAYS = 60  # that a drift is waited for
FLOOR = 1e-4
PSI_LIMIT, KS_LIMIT = 0.2, 1.3581  # the asymptotic 5 % point of Kolmogorov's distribution
SHIPPED = Alarms()
FEW = 2  # rows of a new kind that are let pass
Array = np.ndarray[Any, np.dtype[Any]]


class Case(NamedTuple):
    """So many predictions a day, in windows of so many hours, against a baseline of `rows`."""

    a_day: int
    hours: int = 24
    rows: int = 10_000

    @property
    def values(self) -> int:
        return self.a_day * self.hours // 24

    def __str__(self) -> str:
        window = "" if self.hours == 24 else f", {self.hours} h windows"
        baseline = "" if self.rows == 10_000 else f", baseline of {self.rows}"
        return f"{self.a_day:,}{window}{baseline}"


CASES = (Case(100), Case(1000), Case(100_000), Case(100_000, 1), Case(1000, 24, 442))


class Drift(NamedTuple):
    """A shift in standard deviations, and a share of values that are missing or of a new kind."""

    title: str
    shift: float = 0.0
    lost: float = 0.0


DRIFTS = (
    Drift("0.25 sigma", 0.25),
    Drift("0.5 sigma", 0.5),
    Drift("1 sigma", 1.0),
    Drift("missing sensor", 0.0, 1.0),
    Drift("unseen category", 0.0, 0.05),  # of the rows
)


def chances(rng: np.random.Generator, rows: int, baselines: int, change: Drift) -> Array:
    """[baselines, CELLS + 1]: how likely each cell is, and last what is missing or new."""
    from scipy.special import ndtr, ndtri

    cells = rng.dirichlet(np.full(CELLS, rows / CELLS), baselines)
    if change.shift:
        edges = np.clip(np.cumsum(cells, axis=1), 0, 1)
        edges[:, -1] = 1
        cells = np.diff(ndtr(ndtri(edges) - change.shift), axis=1, prepend=0)
    kept = np.clip(cells, 0, None) * (1 - change.lost)
    return np.hstack([kept, np.full((baselines, 1), change.lost)])


def counts(
    rng: np.random.Generator, case: Case, baselines: int, windows: int, change: Drift
) -> Array:
    """[baselines, windows, CELLS + 1]."""
    p = chances(rng, case.rows, baselines, change)
    p /= p.sum(axis=1, keepdims=True)
    return rng.multinomial(case.values, p[:, None, :], (baselines, windows))


def deciles(found: Array, bins: int = BINS) -> Array:
    """[…, bins], what is missing or new being in the last."""
    parts: Array = found[..., :CELLS].reshape(*found.shape[:-1], bins, CELLS // bins).sum(-1)
    parts[..., -1] += found[..., -1]
    return parts


def score(bins: Array, rows: int) -> Array:
    """handler.drift.statistic.score of the last axis."""
    distance, _, noise = _parts(bins, rows)
    unbiased: Array = distance - (bins.shape[-1] - 1) * noise
    return unbiased


def certainty(bins: Array, rows: int) -> Array:
    """-log of the smaller tail probability: of Pearson's statistic, and of the slope."""
    from scipy.special import gammaincc

    distance, slope, noise = _parts(bins, rows)
    tails = [
        gammaincc(d / 2, x / noise / 2) for x, d in ((distance, bins.shape[-1] - 1), (slope, 1))
    ]
    sure: Array = -np.log(np.maximum(np.minimum(*tails), 1e-300))
    return sure


def _parts(bins: Array, rows: int) -> tuple[Array, Array, Array]:
    """handler.drift.statistic's distance, slope and noise of the last axis."""
    n, k = bins.sum(-1), bins.shape[-1]
    distance = k * (bins.astype(float) ** 2).sum(-1) / n**2 - 1
    mean = (bins * np.arange(1, k + 1)).sum(-1) / n
    return distance, (mean - (k + 1) / 2) ** 2 / ((k * k - 1) / 12), 1 / n + 1 / rows


def psi(found: Array) -> Array:
    """The population stability index over deciles and a bin for what is missing or new."""
    parts = found[..., :CELLS].reshape(*found.shape[:-1], BINS, CELLS // BINS).sum(-1)
    live = np.concatenate([parts, found[..., -1:]], axis=-1) / found.sum(-1, keepdims=True)
    expected = np.array([1 / BINS] * BINS + [FLOOR])
    live = np.maximum(live, FLOOR)
    index: Array = ((live - expected) * np.log(live / expected)).sum(-1)
    return index


def ks(found: Array, rows: int) -> Array:
    """Kolmogorov and Smirnov's distance, times the root of nm / (n + m); 0 without values."""
    cells = found[..., :CELLS]
    n = cells.sum(-1)
    at = np.cumsum(cells, axis=-1) / np.maximum(n, 1)[..., None]
    distance = np.abs(at - np.arange(1, CELLS + 1) / CELLS).max(-1)
    scaled: Array = np.where(n > 0, distance * np.sqrt(n * rows / (n + rows)), 0)
    return scaled


def statistics(found: Array, case: Case) -> dict[str, Array]:
    """What each method compares with its threshold, by window."""
    return {
        "drift": certainty(deciles(found), case.rows),
        "psi": psi(found),
        "ks": ks(found, case.rows),
    }


def shipped(found: Array, case: Case) -> Array:
    """Whether the alarms as they ship fire, by window."""
    bins = deciles(found)
    distance, slope, _ = _parts(bins, case.rows)
    any_change, shift = statistic.critical_values(case.rows, case.hours)
    n = case.values
    sure = (distance > any_change[0] / n + any_change[1]) | (slope > shift[0] / n + shift[1])
    loud = (
        sure
        & (score(bins, case.rows) > SHIPPED.drift_threshold)
        & (case.values >= SHIPPED.drift_min_rows)
    )
    both: Array = loud | unseen(found, case)
    return both


def unseen(found: Array, case: Case) -> Array:
    """Whether the alarm on values of a new kind fires."""
    allowed = max(SHIPPED.unseen_max_percent / 100 * case.values, FEW)
    fired: Array = found[..., -1] > allowed
    return fired


def study(baselines: int, seed: int = SEED) -> dict[str, Any]:
    """Every figure: false alarms a month at the thresholds, and days until a drift is found."""
    report: dict[str, Any] = {}
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([seed, number])
        a_day = 24 // case.hours
        quiet = counts(
            rng,
            case,
            baselines,
            MONTH * (a_day if a_day == 1 else 2),
            DRIFTS[0]._replace(shift=0.0),
        )
        known = statistics(quiet, case)
        monthly = MONTH * a_day
        customary = {
            "shipped": shipped(quiet, case),
            "psi": known["psi"] > PSI_LIMIT,
            "ks": known["ks"] > KS_LIMIT,
        }
        false = {name: float(fired.mean()) * monthly for name, fired in customary.items()}
        once = statistic.FALSE_ALARMS_A_MONTH / monthly
        even = max(once, 20 / quiet.shape[0] / quiet.shape[1])  # what so many windows can tell
        limits = {name: float(np.quantile(values, 1 - even)) for name, values in known.items()}
        delays: dict[str, Any] = {}
        for change in DRIFTS:
            windows = DAYS * a_day if a_day == 1 else 5 * a_day
            found = counts(rng, case, max(baselines // 4, 20), windows, change)
            values = statistics(found, case)
            fired = {name: values[name] > limits[name] for name in values}
            fired["drift"] |= unseen(found, case)
            fired |= {
                "shipped": shipped(found, case),
                "psi > 0.2": values["psi"] > PSI_LIMIT,
                "ks, 5 %": values["ks"] > KS_LIMIT,
            }
            delays[change.title] = {name: _delay(one, case.hours) for name, one in fired.items()}
        report[str(case)] = {
            "false_alarms_a_month": false,
            "equal_rate_a_month": even * monthly,
            "limits": limits,
            "days": delays,
        }
    return report


def _delay(fired: Array, hours: int) -> float | None:
    """Median days until the first alarm, None if most never had one."""
    first = np.where(fired.any(1), fired.argmax(1) + 1.0, np.inf)
    middle = float(np.median(first))
    return None if np.isinf(middle) else round(middle * hours / 24, 3)


def sharpness(baselines: int, seed: int = SEED) -> dict[int, dict[str, float]]:
    """Why ten bins: the share of days on which a drift is found, by the number of bins."""
    found: dict[int, dict[str, float]] = {}
    case = Case(1000)
    for bins in (5, 8, 10, 20):
        rng = np.random.default_rng([seed, 99])
        quiet = counts(rng, case, baselines, MONTH, Drift("none"))
        limit = np.quantile(certainty(deciles(quiet, bins), case.rows), 1 - 1 / 3000)
        found[bins] = {}
        for change in (DRIFTS[0], Drift("unseen, 2 %", 0.0, 0.02), Drift("0.15 sigma", 0.15)):
            live = counts(rng, case, baselines // 4, MONTH, change)
            found[bins][change.title] = float(
                (certainty(deciles(live, bins), case.rows) > limit).mean()
            )
    return found


def markdown(report: dict[str, Any], sharp: dict[int, dict[str, float]]) -> str:
    """The tables of docs/drift.md."""
    lines = [
        "| predictions a day | alarm as shipped | PSI > 0.2 | KS, p < 0.05 |",
        "|---|---:|---:|---:|",
    ]
    for case, found in report.items():
        rates = found["false_alarms_a_month"]
        cells = [_rate(rates[name]) for name in ("shipped", "psi", "ks")]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    tables = ["False alarms a month, of one feature that does not drift:\n\n" + "\n".join(lines)]
    for title, names in (
        (
            "Days until the alarm, at the thresholds above (median)",
            ("shipped", "psi > 0.2", "ks, 5 %"),
        ),
        ("Days until the alarm, all with the same false alarms (median)", ("drift", "psi", "ks")),
    ):
        lines = [f"| predictions a day | drift | {' | '.join(names)} |", "|---|---|" + "---:|" * 3]
        for case, found in report.items():
            for change, delays in found["days"].items():
                cells = [_days(delays[name]) for name in names]
                lines.append(f"| {case} | {change} | {' | '.join(cells)} |")
        tables.append(f"{title}:\n\n" + "\n".join(lines))
    lines = ["| bins | " + " | ".join(next(iter(sharp.values()))) + " |", "|---|" + "---:|" * 3]
    for bins, rates in sharp.items():
        lines.append(f"| {bins} | " + " | ".join(f"{rate:.1%}" for rate in rates.values()) + " |")
    tables.append(
        "Share of days on which a drift is found, at 1,000 predictions a day and 0.01 false "
        "alarms a month, by the number of bins:\n\n" + "\n".join(lines)
    )
    return "\n\n".join(tables) + "\n"


def _rate(value: float) -> str:
    return "none" if not value else f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _days(value: float | None) -> str:
    return "never" if value is None else f"{value:g}"


COLOURS = {"shipped": "#0f766e", "drift": "#0f766e", "psi": "#b45309", "ks": "#6d28d9"}
NAMES = {"drift": "drift score", "psi": "PSI", "ks": "KS"}


def plot(report: dict[str, Any]) -> str:
    """Days until the alarm at the same false-alarm rate, a panel for each traffic; an SVG."""
    cases = [str(case) for case in CASES[:3]]
    width, height, top, left = 250, 220, 70, 46
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {left + width * 3 + 10} {top + height + 76}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        "<style>text{fill:#334155}.g{stroke:#94a3b8;stroke-opacity:.35}"
        "@media(prefers-color-scheme:dark){text{fill:#cbd5e1}}</style>",
        f'<text x="{left}" y="18" font-size="14" font-weight="600">Days until the alarm, '
        "at the same rate of false alarms</text>",
    ]
    for i, name in enumerate(NAMES):
        x = left + i * 110
        parts.append(f'<circle cx="{x + 5}" cy="34" r="5" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 15}" y="38">{NAMES[name]}</text>')
    for panel, case in enumerate(cases):
        x0 = left + panel * width
        parts.append(f'<text x="{x0 + 8}" y="{top - 8}" font-weight="600">{case} a day</text>')
        for day in (1, 3, 10, 30, None):
            y = top + _height(day, height)
            parts.append(
                f'<line class="g" x1="{x0}" x2="{x0 + width - 14}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            if not panel:
                label = "never" if day is None else str(day)
                parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for j, (change, delays) in enumerate(report[case]["days"].items()):
            x = x0 + 26 + j * 45
            for k, name in enumerate(NAMES):
                y = top + _height(delays[name], height)
                parts.append(
                    f'<circle cx="{x + (k - 1) * 10}" cy="{y:.1f}" r="5" fill="{COLOURS[name]}"/>'
                )
            words = (
                change.replace(",", "").replace(" sigma", "\N{GREEK SMALL LETTER SIGMA}").split()
            )
            for k, word in enumerate(words):
                y = top + height + 16 + 13 * k
                parts.append(f'<text x="{x}" y="{y}" text-anchor="middle">{word}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def _height(days: float | None, height: int) -> float:
    """A logarithmic axis from half a day to 60, and "never" at its top."""
    if days is None:
        return 6
    share = float(np.log(max(days, 0.5) / 0.5) / np.log(60 / 0.5))
    return height - share * (height - 26)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.power", description=__doc__)
    parser.add_argument("--baselines", type=int, default=2000, help="months that are simulated")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="a file whose tables to renew"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    report, sharp = study(args.baselines), sharpness(args.baselines)
    text = markdown(report, sharp)
    print(text)
    if args.json:
        args.json.write_text(json.dumps({"study": report, "bins": sharp}, indent=1) + "\n")
    if args.svg:
        args.svg.write_text(plot(report))
    if args.markdown:
        before, mark, rest = args.markdown.read_text().partition(START)
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise SystemExit(f"{args.markdown}: it lacks the marks {START} and {END}")
        args.markdown.write_text(f"{before}{START}\n{text}{END}{after}")


START, END = "<!-- power study: written by `python -m benchmarks.power` -->", "<!-- /power -->"

if __name__ == "__main__":
    main()
