"""Pictures of maps and paths: panels side by side or an animation.

Builds on:  tools.
"""

import io

import numpy as np

from tools.files import write_safely
from tools.pictures import new_figure


MOST_CELLS = 600  # in a row of a panel, which has fewer pixels


def cells_between(grid, low, high):
    """(free [h, w], [left, right, bottom, top] in cells) of the part of a map between two corners (x, y) in the world.

    Above MOST_CELLS in a row, k x k cells become one. It is free where all of them are.
    """
    corners = np.array([[x, y] for x in (low[0], high[0]) for y in (low[1], high[1])])
    cells = grid.to_cells(corners)  # the map may be turned
    left, bottom = np.floor(cells.min(axis=0)).astype(int).clip(0)
    right, top = np.ceil(cells.max(axis=0)).astype(int) + 1
    free = grid.free[bottom:top, left:right]
    k = max(1, -(-max(free.shape) // MOST_CELLS))
    free = np.pad(free, [(0, -length % k) for length in free.shape], constant_values=True)
    height, width = free.shape[0] // k, free.shape[1] // k
    blocks = free.reshape(height, k, width, k)
    return blocks.all(axis=(1, 3)), [left, left + width * k, bottom, bottom + height * k]


def draw_map(axes, grid, points, margin=1.5):
    """Draws the part of a map around points [N, 2]."""
    from matplotlib.transforms import Affine2D

    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    free, extent = cells_between(grid, low, high)
    x, y, yaw = grid.origin
    to_world = Affine2D().scale(grid.resolution).rotate(yaw).translate(x, y)  # of the map's cells
    colours, look = np.where(free, 1.0, 0.25), dict(cmap="gray", vmin=0, vmax=1)
    axes.imshow(colours, origin="lower", extent=extent, transform=to_world + axes.transData, **look)
    axes.set_facecolor("0.25")  # beyond the map nothing is free
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])


def draw_disc(axes, disc):
    """Draws an obstacle (x, y, radius)."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle(disc[:2], disc[2], color="tab:orange", label="obstacle"))


def draw_scale(axes):
    """Draws a bar of 1 m in the lower left corner."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x, y = left + 0.05 * (right - left), low + 0.05 * (high - low)
    axes.plot([x, x + 1], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(x + 0.5, y + 0.02 * (high - low), "1 m", ha="center", va="bottom", fontsize=9)


def panels_of(number, grid, old, disc):
    """(figure, so many axes). Each shows the map, the old path [M, 2] and the obstacle if there is one."""
    columns = min(4, number)
    rows = -(-number // columns)
    size = (3.2 * columns, 3.2 * rows + 0.6)  # inches, of which 0.6 for the legend
    figure, axes = new_figure(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for each in axes.flat[:number]:
        draw_map(each, grid, np.array([disc[:2]]) if disc else old, max(3.0, disc[2] + 1) if disc else 1.0)
        each.plot(*old.T, ":", color="tab:blue", label="before")
        if disc:
            draw_disc(each, disc)
        draw_scale(each)
    for each in axes.flat[number:]:
        each.set_axis_off()
    return figure, axes.flat[:number]


COLOURS = ("tab:red", "tab:green", "tab:purple", "tab:brown", "tab:cyan")


def draw_passes(grid, old, disc, frames, paths, out):
    """Saves a picture of a filling with a panel for each pass. In a .gif they come one after another.

    frames: [[B, n, 2] control points of B fillings, nan where masked]. paths [[M, 2]] are what came of it.
    """
    titles = ["the path", "masked", *(f"pass {number}" for number in range(1, len(frames)))]
    count, moving = len(frames) + 1, out.suffix == ".gif"
    pictures = [panels_of(1 if moving else count, grid, old, disc) for _ in range(count if moving else 1)]
    *panels, last = (axes for _, each in pictures for axes in each)
    for axes, title in zip([last, *panels], titles):
        axes.set_title(title, fontsize=10)
    draw_fillings(panels, frames)
    draw_paths(last, paths)
    drawn = {name: line for axes in (*panels, last) for line, name in zip(*axes.get_legend_handles_labels())}
    figures = [figure for figure, _ in pictures]
    for figure in figures:
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=2 if moving else 8)
    if moving:
        return save_animation(out, figures)
    buffer = io.BytesIO()
    figures[0].savefig(buffer, format="png", dpi=110)
    write_safely(out, buffer.getvalue(), new=True)


def draw_fillings(panels, frames):
    """Draws about eight of the fillings [B, n, 2] of each frame."""
    for axes, frame in zip(panels, frames):
        for number, control in enumerate(frame[:: -(-len(frame) // 8)]):
            name = None if number else "fillings"
            axes.plot(*control.T, "o-", color="tab:red", alpha=0.35, markersize=3, linewidth=1, label=name)


def draw_paths(axes, paths):
    """Draws paths [[M, 2]]. Several of them are numbered."""
    for number, path in enumerate(paths):
        name = f"{number + 1}." if len(paths) > 1 else "after"
        axes.plot(*path.T, color=COLOURS[number % len(COLOURS)], linewidth=2, label=name)


def save_animation(path, figures):
    """Saves figures of matplotlib as an animation. The last one is shown longest."""
    from PIL import Image

    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        images.append(Image.open(buffer).convert("RGB").quantize(128))
    file = io.BytesIO()
    durations = [700] * (len(images) - 1) + [3000]  # milliseconds
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_safely(path, file.getvalue(), new=True)
