"""The picture of sparse_cpu.py: how many times faster than torch each engine is. This is no bench itself."""

WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 190, 40, 40, 30
COLOURS = {
    "dense_bf16": "#9ca3af",
    "dense_int8": "#6b7280",
    "mkl": "#b45309",
    "deepsparse": "#be123c",
    "sparse_fp32": "#60a5fa",
    "sparse_bf16": "#2563eb",
    "sparse_int8": "#1e3a8a",
}


def draw(cells: dict[str, dict[str, float]]) -> str:
    """SVG: a plot for each shape and batch, with sparsity to the right and speed over torch float32 up."""
    keys = [cell.split("/") for cell in cells["torch_fp32"]]
    shapes, sparsities, batches = (list(dict.fromkeys(one)) for one in zip(*keys, strict=True))
    engines = [engine for engine in COLOURS if engine in cells]
    width, height = len(shapes) * (WIDTH + GAP) + 10, len(batches) * (HEIGHT + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for i, engine in enumerate(engines):
        at = 10 + i * 120
        parts.append(f'<rect x="{at}" y="8" width="10" height="10" fill="{COLOURS[engine]}"/>')
        parts.append(f'<text x="{at + 14}" y="17">{engine.replace("_", " ")}</text>')
    for column, shape in enumerate(shapes):
        for row, batch in enumerate(batches):
            left, top = column * (WIDTH + GAP), 24 + row * (HEIGHT + GAP)
            lines = {
                engine: [
                    cells["torch_fp32"][f"{shape}/{sparsity}/{batch}"]
                    / cells[engine][f"{shape}/{sparsity}/{batch}"]
                    for sparsity in sparsities
                ]
                for engine in engines
            }
            parts.append(f'<g transform="translate({left} {top})">{_plot(lines, sparsities)}')
            parts.append(f'<text x="{LEFT}" y="{TOP - 14}">{shape}, {batch} tokens</text></g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _plot(lines: dict[str, list[float]], sparsities: list[str]) -> str:
    most = max(max(values) for values in lines.values()) * 1.05
    bottom, right = HEIGHT, WIDTH - 10

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * value / most

    def x(i: int) -> float:
        return LEFT + (right - LEFT) * i / (len(sparsities) - 1)

    parts = []
    step = 1 if most < 6 else 2 if most < 12 else 5
    for tick in range(0, int(most) + 1, step):
        colour = "#374151" if tick == 1 else "#e5e7eb"
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{colour}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for i, sparsity in enumerate(sparsities):
        parts.append(
            f'<text x="{x(i):.1f}" y="{bottom + 14}" text-anchor="middle">{float(sparsity):.0%}</text>'
        )
    for engine, values in lines.items():
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[engine]}" stroke-width="2"/>')
    return "".join(parts)
