"""What alignment changes inside a model: probes and latents before and after, and the gradients that did it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saferlrm.plots import style
from saferlrm.plots.forest import spread
from saferlrm.plots.measures import colour, condition_name, conditions
from saferlrm.plots.probing import GROUPS

HARM = {True: "harmful", False: "benign"}
CONTROLS = {
    "random": ("random direction", "#999999", ":"),
    "within": ("direction of the states' own scatter", "#444444", ":"),
}
LOSSES = {
    "lm": ("next-token loss", style.PALETTE["sft"], "-"),
    "aux": ("auxiliary loss", style.PALETTE["auxiliary loss"], "-"),
}


def probes_before_after(probes: pd.DataFrame) -> Figure:
    """AUROC of each model's own probe by layer, and length and turn of its refusal direction at the pre-CoT token.

    Args:
        probes: of :meth:`saferlrm.study.mechanism.Mechanism.mechanism_probes`; columns ``condition``, ``seed``,
            ``position``, ``layer``, ``group``, ``probe``, ``auroc``, ``low``, ``high``, ``n``, ``relative_norm``,
            ``cosine``.
    """
    needed = ("condition", "seed", "position", "layer", "group", "probe", "auroc", "low", "high", "n")
    style.require(probes, (*needed, "relative_norm", "cosine"), "probes_before_after")
    own = probes[(probes["probe"] == "own") & (probes["position"] == "pre_cot")]
    style.require(own, needed, "probes_before_after")
    groups = [name for name in style.in_order(own["group"], list(GROUPS)) if name in set(own["group"])]
    names = conditions(own["condition"])
    figure, axes = style.canvas(2, max(2, len(groups)), 7.6, width=10.5)
    for ax, group in zip(axes[0], groups, strict=False):
        _by_layer(ax, own[own["group"] == group], names, ("auroc", "low", "high"))
        ax.axhline(0.5, color="#BBBBBB", linewidth=1, zorder=0)
        ax.set_title(GROUPS.get(group, group))
        ax.set_ylabel("AUROC, own probe")
        ax.set_ylim(min(0.45, own["low"].min() - 0.02), 1.02)
    turned = own[own["group"] == groups[0]]
    _by_layer(axes[1, 0], turned, names, ("relative_norm", None, None))
    axes[1, 0].axhline(1, color="#BBBBBB", linewidth=1, zorder=0)
    axes[1, 0].set_title("Length of the refusal direction")
    axes[1, 0].set_ylabel("times that before")
    axes[1, 0].set_ylim(0, 1.12 * max(1.0, float(turned["relative_norm"].max())))
    _by_layer(axes[1, 1], turned, names, ("cosine", None, None))
    axes[1, 1].set_title("Turn of the refusal direction")
    axes[1, 1].set_ylabel("cosine with that before")
    axes[1, 1].set_ylim(min(-0.05, turned["cosine"].min() - 0.05), 1.05)
    for ax in [*axes[0, len(groups) :], *axes[1, 2:]]:
        ax.set_visible(False)
    for ax in axes[1]:
        ax.set_xlabel("layer (0: embeddings)")
    caption = (
        f"{style.counts(own['n'])} held-out prompts a point; lines: means over {seeds_of(own)}. "
        "Bands: 95\u00a0% intervals of one model (Newcombe), averaged over seeds. "
        "Dashed: few examples."
    )
    finding = _probe_finding(own, groups, names)
    return style.finish(figure, finding, caption, "Lines by layer before and after alignment.", axes[0, 0], 4)


def _probe_finding(own: pd.DataFrame, groups: list[str], names: list[str]) -> str:
    """The last layer, which the head reads: every model on the whole alignment set, and labels without answers."""
    group = "novel_wrapped" if "novel_wrapped" in groups else groups[-1]
    layer = int(own["layer"].max())
    means = own[(own["group"] == group) & (own["layer"] == layer)].groupby("condition")["auroc"].mean()
    base = "before" if "before" in names else names[0]
    told = [name for name in names if name != base and ("/" not in name or "decisions" in name)]
    after = [f"{means[name]:.2f} ({condition_name(name)})" for name in told]
    text = f"Probes of layer {layer} read harm with AUROC {means[base]:.2f} {condition_name(base)}"
    return f"{text}{' and ' + ', '.join(after) + ' after it' if after else ''} ({GROUPS.get(group, group)})"


def latent_shift(table: pd.DataFrame) -> Figure:
    """How far the pre-CoT state moved along the refusal direction, and how much of the shift lies along it, by layer.

    Args:
        table: of :func:`saferlrm.mechanism.shift_table`.
    """
    needed = ("condition", "harmful", "layer", "direction", "projection", "projection_low", "projection_high", "share")
    style.require(table, (*needed, "share_low", "share_high", "norm", "n", "seeds"), "latent_shift")
    main, control = table[table["direction"] == "refusal"], table[table["direction"].isin(CONTROLS)]
    style.require(main, needed, "latent_shift")
    names = conditions(main["condition"])
    figure, axes = style.canvas(2, 2, 7.6, width=10.5, sharex=True)
    for row, harmful in zip(axes, (True, False), strict=True):
        part, drawn = main[main["harmful"] == harmful], control[control["harmful"] == harmful]
        for ax, column in zip(row, ("projection", "share"), strict=True):
            _by_layer(ax, part, names, (column, f"{column}_low", f"{column}_high"))
            for name, (label, shade, dash) in CONTROLS.items():
                mean = drawn[drawn["direction"] == name].groupby("layer")[column].mean()
                if len(mean):
                    ax.plot(mean.index, mean, color=shade, linestyle=dash, label=label)
        row[0].axhline(0, color="#BBBBBB", linewidth=1, zorder=0)
        row[0].set_ylabel(f"{HARM[harmful]} prompts:\nshift along the direction")
        row[1].set_ylabel("share of the squared shift")
        style.rate_axis(row[1], "y", "share of the squared shift")
        row[1].set_ylim(-0.02, max(0.12, 1.15 * float(table["share_high"].max())))
    axes[0, 0].set_title("Along the unaligned refusal direction")
    axes[0, 1].set_title("How much of the shift that is")
    _share_limits(axes[:, 0])
    for ax in axes[1]:
        ax.set_xlabel("layer")
    caption = (
        f"{style.counts(main['n'])} held-out prompts, {spread(main['seeds'])} alignment seeds. Unit on the left: "
        "the distance between the class means before alignment. Bands: 95\u00a0% BCa bootstrap over prompts. "
        "Dashed: few examples. Dotted: means over random directions and conditions."
    )
    shows = "Lines of the shift of the latent by layer."
    return style.finish(figure, _shift_finding(main, control, names), caption, shows, axes[0, 0], 4)


def _shift_finding(main: pd.DataFrame, control: pd.DataFrame, names: list[str]) -> str:
    layer = main["layer"].max()
    at = main[main["layer"] == layer].set_index(["condition", "harmful"])
    name = next(one for one in ("presafe", *names) if (one, True) in at.index and (one, False) in at.index)
    moved = {harmful: at.loc[(name, harmful)] for harmful in (True, False)}
    at_top = control[(control["layer"] == layer) & (control["condition"] == name) & control["harmful"]]
    shares = at_top.set_index("direction")["share"]
    others = [f"{label} {style.percent(shares[one])}" for one, (label, *_) in CONTROLS.items() if one in shares]
    beside = f" ({', '.join(others)})" if others else ""
    text = (
        f"Layer {layer}: {condition_name(name)} moves harmful prompts by {moved[True]['projection']:+.2f}, benign ones "
        f"by {moved[False]['projection']:+.2f} class distances along the refusal direction, "
        f"{style.percent(moved[True]['share'])} of their shift{beside}"
    )
    if name != "sft" and ("sft", True) in at.index:
        both = (at.loc[("sft", harmful), "projection"] for harmful in (True, False))
        text += f"; {condition_name('sft')}: {' and '.join(f'{value:+.2f}' for value in both)}"
    return text


def gradient_path(table: pd.DataFrame) -> Figure:
    """Norms, agreement and direction of the two gradients along alignment.

    Args:
        table: of :meth:`saferlrm.study.mechanism.Mechanism.gradient_path`; columns ``condition``, ``seed``, ``epoch``,
            ``of``, ``layer``, ``group``, ``norm_lm``, ``norm_aux``, ``cosine``, ``toward_lm``, ``toward_aux`` (the last
            three also with ``_low`` and ``_high``) and ``n``.
    """
    needed = ("condition", "seed", "epoch", "of", "layer", "group", "norm_lm", "norm_aux", "cosine", "n")
    style.require(table, (*needed, "toward_aux", "toward_aux_low", "toward_aux_high"), "gradient_path")
    names = conditions(table["condition"])
    top = table.loc[table["of"] == "latent", "layer"].max()
    lora, latent = table[table["of"] == "lora"], table[(table["of"] == "latent") & (table["layer"] == top)]
    figure, axes = style.canvas(len(names), 3, 2.9 * len(names) + 1.9, width=10.5)
    for row, name in zip(axes, names, strict=True):
        whole = lora[(lora["condition"] == name) & (lora["group"] == "all")]
        for loss, (label, shade, dash) in LOSSES.items():
            _runs(row[0], whole, f"norm_{loss}", label, shade, dash)
        _runs(row[1], whole, "cosine", "cosine of the two", "#333333", "-")
        for group, shade in (("harmful", style.PALETTE["gold"]), ("benign", style.PALETTE["classifier"])):
            part = latent[(latent["condition"] == name) & (latent["group"] == group)]
            _runs(row[2], part, "toward_aux", f"auxiliary loss, {group} prompts", shade, "-")
            ends = part.groupby("epoch")[["toward_aux_low", "toward_aux_high"]].mean().dropna()
            row[2].fill_between(ends.index, ends.iloc[:, 0], ends.iloc[:, 1], color=shade, alpha=0.18, linewidth=0)
        row[0].set_ylabel(f"{condition_name(name)}\ngradient norm")
        row[0].set_ylim(bottom=0)
        for ax in row[1:]:
            ax.axhline(0, color="#888888", linewidth=1, zorder=0)
    for ax, title in zip(
        axes[0],
        ("At the adapter's weights", "Cosine of the two gradients", f"Push along the refusal\ndirection, layer {top}"),
        strict=True,
    ):
        ax.set_title(title)
    for column in (axes[:, 1], axes[:, 2]):
        most = max(0.25, *(abs(end) for ax in column for end in ax.get_ylim()))
        for ax in column:
            ax.set_ylim(-min(1.05, most), min(1.05, most))
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    for ax in axes[0, 1:]:  # one legend names the lines of all panels
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            axes[0, 0].plot([], [], color=handle.get_color(), linestyle=handle.get_linestyle(), label=label)
    caption = (
        f"{style.counts(table.loc[table['group'] == 'all', 'n'])} examples, the same at every point; thin lines: "
        f"{seeds_of(table)}, thick ones: their means. Bands: 95\u00a0% BCa bootstrap over examples, mean over seeds. "
        "The auxiliary loss is taken before λ. Push: cosine of a step against the gradient with the refusal direction "
        "of the unaligned model."
    )
    finding = _path_finding(lora, latent, names)
    return style.finish(figure, finding, caption, "Lines along alignment.", axes[0, 0], 3)


def _path_finding(lora: pd.DataFrame, latent: pd.DataFrame, names: list[str]) -> str:
    peaks, cosines, pushes = [], [], []
    for name in names:
        whole = lora[(lora["condition"] == name) & (lora["group"] == "all")].groupby("epoch")
        harmful = latent[(latent["condition"] == name) & (latent["group"] == "harmful")]
        peaks.append(f"{whole['norm_aux'].mean().idxmax():.1f} ({condition_name(name)})")
        cosines.append(f"{whole['cosine'].mean().mean():+.2f}".replace("-", "\u2212"))
        pushes.append(f"{harmful['toward_aux'].mean():+.2f}".replace("-", "\u2212"))
    return (
        f"The safety gradient peaks at epoch {' and '.join(peaks)}; its mean cosine with the next-token gradient is "
        f"{' and '.join(cosines)}, and with the refusal direction at harmful prompts {' and '.join(pushes)}"
    )


def _runs(ax: Axes, part: pd.DataFrame, column: str, label: str, shade: str, dash: str) -> None:
    """A thin line for each seed and a thick one for their mean."""
    for _, run in part.groupby("seed"):
        ax.plot(run["epoch"], run[column].astype(float), color=shade, linewidth=0.8, alpha=0.45)
    mean = part.groupby("epoch")[column].mean()
    ax.plot(mean.index, mean.astype(float), color=shade, linestyle=dash, label=label)


def _by_layer(ax: Axes, part: pd.DataFrame, names: list[str], columns: tuple[str, str | None, str | None]) -> None:
    """A line for each condition, the mean over its seeds, with the mean of their intervals."""
    estimate, low, high = columns
    for i, name in enumerate(names):
        wanted = [column for column in columns if column is not None]
        mean = part[part["condition"] == name].groupby("layer")[wanted].mean().astype(float)
        look = {
            "color": colour(name, i), "linestyle": "--" if "/" in name else "-", "marker": style.MARKERS[i % 6],
            "markersize": 5,
        }  # fmt: skip
        ax.plot(mean.index, mean[estimate], label=condition_name(name), **look)
        if low is not None:
            ax.fill_between(mean.index, mean[low], mean[high], color=look["color"], alpha=0.12, linewidth=0)
    ax.set_xticks(sorted(part["layer"].unique()))


def _share_limits(axes: np.ndarray) -> None:
    """The same vertical limits for panels that are to be compared."""
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)


def seeds_of(table: pd.DataFrame) -> str:
    """``3 alignment seeds``: how many the aligned models of a table have."""
    counts = table[table["condition"] != "before"].groupby("condition")["seed"].nunique()
    return f"{spread(counts)} alignment seed{'s' if counts.max() > 1 else ''}" if len(counts) else "1 model"
