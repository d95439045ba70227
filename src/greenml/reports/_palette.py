"""The colours of the HTML pages, for light and dark schemes; the charts use the same ones, by name."""

from __future__ import annotations

LIGHT = {
    "--page": "#f6f7f5", "--surface": "#ffffff", "--raised": "#f0f2ef", "--text": "#161c19", "--muted": "#535e58",
    "--line": "#dde2de", "--grid": "#e6eae7", "--accent": "#0b6e4f", "--accent-soft": "#e2f1ea",
    "--warn": "#8a4b00", "--warn-soft": "#fdf1de", "--bad": "#a3261d", "--gap": "#8b958f",
    "--series-1": "#0067a5", "--series-2": "#c04a00", "--series-3": "#00795a", "--series-4": "#a8437f",
    "--series-5": "#8a6a00", "--series-6": "#3c8fc7", "--series-7": "#6f5bc0", "--series-8": "#5f6a64",
    "--shade-1": "#e3ecf6", "--shade-2": "#fceee3", "--shade-3": "#dff1e8", "--shade-4": "#f7e7f1",
    "--shade-5": "#f4eed5", "--shade-6": "#ebe7f8",
}  # fmt: skip
DARK = {
    "--page": "#101412", "--surface": "#181d1a", "--raised": "#212724", "--text": "#e7ece9", "--muted": "#a6b1ab",
    "--line": "#303833", "--grid": "#29302c", "--accent": "#5ccf9f", "--accent-soft": "#17332a",
    "--warn": "#f1bd6d", "--warn-soft": "#33280f", "--bad": "#ff9288", "--gap": "#77827c",
    "--series-1": "#5db4ef", "--series-2": "#ff9457", "--series-3": "#3fcb9d", "--series-4": "#ee93c6",
    "--series-5": "#e8bd3f", "--series-6": "#a9d6f7", "--series-7": "#b8a4ff", "--series-8": "#b3bcb7",
    "--shade-1": "#1b2d3d", "--shade-2": "#33251c", "--shade-3": "#183226", "--shade-4": "#35212f",
    "--shade-5": "#302b17", "--shade-6": "#28243d",
}  # fmt: skip
SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))  # told apart by colour-blind eyes, in this order
