"""Formats of quantities for people: bytes, counts, durations, figures."""

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(size: float) -> str:
    """Format bytes: 1536 → `1.5 KiB`; whole bytes have no fraction."""
    power = 0
    while abs(size) >= 1024 and power < len(_BYTES) - 1:
        size /= 1024
        power += 1
    return f"{size:.0f} B" if power == 0 else f"{size:.1f} {_BYTES[power]}"


def human_count(count: float) -> str:
    """Format a count with at most three digits: 20_000_000 → `20M`, 65_536 → `65.5k`, 999 → `999`."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size * 0.9995:
            return f"{float(f'{count / size:.3g}'):g}{letter}"
    return f"{count:.0f}"


def human_share(share: float) -> str:
    """Format a share: 0.684 → `68 %`, -0.1 → `-10 %`."""
    return f"{100 * share:.0f} %"


def human_seconds(seconds: float) -> str:
    """Format a duration: 0.42 → `0.4 s`, 75 → `1 min 15 s`, 7325 → `2 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_error(estimate: float, actual: float) -> str:
    """Format how far an estimate was off, as a share of what was measured: 90 for 100 → `-10 %`. Where
    nothing was measured there is no share: `–`."""
    return f"{100 * (estimate - actual) / actual:+.0f} %" if actual > 0 else "–"


def human_perplexity(value: float) -> str:
    """Format a perplexity: two decimals below 1000, fewer for larger values."""
    if value < 1000:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value < 1e7 else f"{value:.2e}"


def human_metric(value: float | None, *, sign: bool = False) -> str:
    """Format a task's figure: four decimals for accuracies, fewer for large values, and `–` for None."""
    if value is None:
        return "–"
    plus = "+" if sign and value >= 0 else ""
    if abs(value) < 100:
        return f"{plus}{value:.4f}"
    return f"{plus}{value:,.1f}" if abs(value) < 1e7 else f"{plus}{value:.2e}"


def human_interval(low: float, high: float) -> str:
    """Format an interval of differences with three digits: `-0.034 to +0.012`."""
    return f"{low:+.3g} to {high:+.3g}"


def human_p(value: float) -> str:
    """Format a p-value: `p = 0.034`, and `p < 0.001` below that."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def human_figure(name: str, value: float) -> str:
    """Format a figure by the unit at the end of its name: `idle_memory_bytes` → `idle memory 421 MiB`."""
    if name.endswith("_bytes"):
        return f"{_words(name, '_bytes')} {human_bytes(value)}"
    if name.endswith("_seconds"):
        return f"{_words(name, '_seconds')} {human_seconds(value)}"
    return f"{_words(name)} {value:,.6g}"


def _words(name: str, unit: str = "") -> str:
    return name.removesuffix(unit).replace("_", " ")
