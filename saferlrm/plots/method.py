"""The method as a figure: where the auxiliary head sits, which way its gradient runs, and what is left at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from saferlrm.align.head import resolve_layer
from saferlrm.errors import SaferlrmError
from saferlrm.plots import style
from saferlrm.profile import AlignmentSettings

WIDTH, MARGIN = 13.0, 1.8  # inches; what title, legend and caption need above and below the drawing
UNIT = 100  # of the drawing, to an inch
INK, QUIET = "#39424E", "#8A939E"
AUXILIARY, NEXT_TOKEN = style.PALETTE["auxiliary loss"], style.PALETTE["sft"]
CLASSIFIER, ADAPTER, GONE = style.PALETTE["classifier"], style.PALETTE["on"], style.PALETTE["gold"]
MOST_LAYERS = 5  # a deeper model is drawn with the layers in between left out
BOX, PITCH, GROUND, HEADROOM = 36, 72, 92, 206  # of a layer, from one to the next, below and above all states
TOKEN_NAMES = {
    "prompt_last": "at the last token of the user's text",
    "pre_cot": "at the last token before the thought",
    "think_open": "at the token that opens the thought",
    "prompt_mean": "as a mean over the user's text",
}
TRAINING = ("How", "…", "?", "assistant", "↵", "<think>", "…", "answer", "…")
READ = {"prompt_last": (2,), "pre_cot": (4,), "think_open": (5,), "prompt_mean": (0, 1, 2)}
N_PROMPT, N_USER = 5, 3


@dataclass(frozen=True)
class Stack:
    """One drawing of the model: its columns are tokens, its rows layers.

    Attributes:
        left, right: ends of the layers' boxes.
        columns: places of the tokens.
        layers: the layers that are drawn, lowest first; ``None`` stands for those left out.
    """

    left: float
    right: float
    columns: tuple[float, ...]
    layers: tuple[int | None, ...]

    def states(self, row: int) -> float:
        """Height of the states that leave row ``row``; 0 are the embeddings."""
        return GROUND + PITCH * row

    @property
    def top(self) -> float:
        return self.states(len(self.layers))


def method_diagram(n_layers: int, settings: AlignmentSettings) -> Figure:
    """Training on the left, with the head, both losses and the head's gradient; inference on the right, without.

    Args:
        n_layers: number of the model's layers.
        settings: ``head_layer``, ``head_token``, ``lambda_aux``, ``rank`` and ``detach_head`` are drawn.

    Raises:
        SaferlrmError: the model has no such layer, or ``head_token`` stands for two heads.
    """
    if settings.head_token not in READ:
        raise SaferlrmError(
            f"the figure method_diagram draws one head; choose a head_token from {', '.join(READ)}, "
            f"not {settings.head_token}"
        )
    read_at = resolve_layer(settings.head_layer, n_layers)
    layers = drawn_layers(n_layers, read_at)
    height = GROUND + PITCH * len(layers) + HEADROOM
    figure, axes = style.canvas(1, 1, MARGIN + height / UNIT, width=WIDTH)
    ax = axes[0, 0]
    ax.set_xlim(0, WIDTH * UNIT)
    ax.set_ylim(0, height)
    ax.set_axis_off()
    supervised = settings.lambda_aux > 0
    _training(ax, layers, read_at, settings)
    _inference(ax, layers, supervised)
    flows = supervised and not settings.detach_head
    named = [(ADAPTER, "LoRA, trained"), (NEXT_TOKEN, "next-token loss and its gradient")]
    for colour, name in [*named, (AUXILIARY, "auxiliary head")] if supervised else named:
        ax.plot([], [], "s", markersize=11, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2.2,
                label=name)  # fmt: skip
    if flows:
        ax.plot([], [], color=AUXILIARY, linewidth=3, label="safety gradient")
    place = TOKEN_NAMES[settings.head_token]
    if not supervised:
        finding = "With λ = 0 there is no head: the next-token loss alone trains the adapter"
    elif flows:
        finding = f"The head reads layer {read_at} of {n_layers} {place}; its gradient stays behind in LoRA"
    else:
        finding = f"A detached head reads layer {read_at} of {n_layers} {place} and sends no gradient back"
    caption = f"Columns are tokens, rows are layers, dots are hidden states; LoRA has rank {settings.rank}. "
    if flows:
        caption += (
            "A state attends to itself and to what stands left of it, so the safety gradient reaches the token that is "
            "read and those before it, in the layers up to the one that is read, and no later token."
        )
    elif supervised:
        caption += "Dashed: what is read passes on, and the gradient does not come back."
    shows = "A drawing of the model in training and, beside it, at inference"
    shows += ", where classifier and head are crossed out." if supervised else "."
    return style.finish(figure, finding, caption, shows, ax)


def drawn_layers(n_layers: int, read_at: int) -> tuple[int | None, ...]:
    """All layers of a shallow model; of a deep one the lowest, the top and the one that is read, with gaps between."""
    if n_layers <= MOST_LAYERS:
        return tuple(range(1, n_layers + 1))
    kept = sorted({1, read_at, n_layers} if 2 < read_at < n_layers - 1 else {1, 2, n_layers - 1, n_layers})
    drawn: list[int | None] = []
    for below, layer in zip([0, *kept], kept, strict=False):
        drawn += [layer] if layer == below + 1 else [None, layer]
    return tuple(drawn)


def _training(ax: Axes, layers: tuple[int | None, ...], read_at: int, settings: AlignmentSettings) -> None:
    stack = Stack(20, 782, tuple(244 + 63 * i for i in range(len(TRAINING))), layers)
    read = READ[settings.head_token]
    row = layers.index(read_at) + 1
    supervised = settings.lambda_aux > 0
    _model(ax, stack, TRAINING, read if supervised else (), row)
    _brace(ax, stack, 0, N_PROMPT, "prompt: given, not learnt")
    _brace(ax, stack, N_PROMPT, len(TRAINING), "reply: learnt token by token")
    _text(ax, stack.left, stack.top + HEADROOM - 12, "Training", size=13, ha="left", weight="bold")
    # The state at a position predicts the next token, so the first reply token is predicted before the thought.
    low = stack.top + 46
    first, last = stack.columns[N_PROMPT - 1], stack.columns[-2]
    _box(ax, (first - 26, low), (last + 26, low + 40), "next-token loss: $L_{LM}$", NEXT_TOKEN)
    for x in stack.columns[N_PROMPT - 1 : -1]:
        _arrow(ax, (x, low), (x, stack.top + 7), NEXT_TOKEN, 1.6)
    middle, high = 0.5 * (first + last), low + 84
    total = "$L = L_{LM}" + (rf" + {settings.lambda_aux:g}\;L_{{aux}}$" if supervised else "$")
    _box(ax, (middle - 104, high), (middle + 104, high + 36), total, INK)
    _arrow(ax, (middle, low + 40), (middle, high), INK, 1.4)
    if not supervised:
        return
    head = ((180, low), (444, low + 40))
    _box(ax, *head, r"head: $\hat{q}=\sigma(w\cdot\mathrm{norm}(h)+b)$", AUXILIARY)
    _box(ax, (stack.left, low), (142, low + 40), "classifier: $q$", CLASSIFIER)
    bend = 0.5 * (head[0][0] + head[1][0])
    _box(ax, (bend - 62, high), (bend + 62, high + 36), r"$L_{aux}(\hat{q}, q)$", AUXILIARY)
    _arrow(ax, (bend, low + 40), (bend, high), AUXILIARY, 1.4)
    ax.plot([81, 81], [low + 40, high + 18], color=CLASSIFIER, linewidth=1.6)
    _arrow(ax, (81, high + 18), (bend - 62, high + 18), CLASSIFIER, 1.6)
    _arrow(ax, (bend + 62, high + 18), (middle - 104, high + 18), INK, 1.4)
    _tap(ax, stack, read, row, head, settings.detach_head)
    if not settings.detach_head:
        _gradient(ax, stack, read, row)


def _tap(
    ax: Axes, stack: Stack, read: Sequence[int], row: int, head: tuple[tuple[float, float], tuple[float, float]],
    detached: bool,
) -> None:  # fmt: skip
    """The line from the state that is read to the head: up at once, or round the layers above."""
    dash = (0, (4, 2)) if detached else "-"
    low, y = head[0][1], stack.states(row)
    x = stack.columns[read[-1]]
    if row == len(stack.layers):
        entry = min(x - 6, head[1][0] - 16)
        points = [(x - 5, y + 5), (entry, y + 24), (entry, low)]
    else:
        side = stack.left - 10
        points = [(x, y + 6), (x, y + 13), (side, y + 13), (side, low - 12), (head[0][0] + 20, low - 12),
                  (head[0][0] + 20, low)]  # fmt: skip
    ax.plot(*zip(*points[:-1], strict=True), color=AUXILIARY, linewidth=2.2, linestyle=dash, zorder=4)
    _arrow(ax, points[-2], points[-1], AUXILIARY, 2.2)


def _gradient(ax: Axes, stack: Stack, read: Sequence[int], row: int) -> None:
    """Down through each layer: bold at the tokens that are read, thin to and at the tokens that these attend to."""
    for level in range(row, 0, -1):
        y, below = stack.states(level), stack.states(level - 1)
        for column in read:
            for x in stack.columns[:column]:
                _arrow(ax, (stack.columns[column] - 4, y - 6), (x + 3, below + 7), AUXILIARY, 1.0, alpha=0.55)
        for column, x in enumerate(stack.columns[: read[-1] + 1]):
            if column in read:
                _arrow(ax, (x, y - 6), (x, below + 6), AUXILIARY, 3.4)
            elif level < row:
                _arrow(ax, (x, y - 6), (x, below + 6), AUXILIARY, 1.0, alpha=0.55)


def _inference(ax: Axes, layers: tuple[int | None, ...], supervised: bool) -> None:
    names = ("How", "…", "↵", "<think>", "…", "answer")
    stack = Stack(846, 1288, tuple(934 + 64 * i for i in range(len(names))), layers)
    _model(ax, stack, names, (), 0)
    _brace(ax, stack, 0, 3, "prompt: given")
    _brace(ax, stack, 3, len(names), "written by the model")
    _text(ax, stack.left, stack.top + HEADROOM - 12, "Inference", size=13, ha="left", weight="bold")
    low = stack.top + 46
    first, last = stack.columns[2], stack.columns[-1]
    _box(ax, (first - 18, low), (last + 30, low + 40), "predicts the next token", INK)
    for x in stack.columns[2:]:
        _arrow(ax, (x, stack.top + 7), (x, low), INK, 1.4)
    if not supervised:
        return
    high = low + 84
    for left, right, name in ((stack.left, 968, "classifier"), (982, 1070, "head")):
        _box(ax, (left, high), (right, high + 36), name, QUIET, dashed=True)
        for ends in ((high, high + 36), (high + 36, high)):
            ax.plot([left, right], ends, color=GONE, linewidth=2.4, alpha=0.65, zorder=4)
    _text(ax, 1084, high + 18, "thrown away: nothing\nto load or to compute", ha="left")


def _model(ax: Axes, stack: Stack, tokens: Sequence[str], read: Sequence[int], row: int) -> None:
    """Tokens, layers and the states between them; the states that are read are ringed."""
    for i, layer in enumerate(stack.layers, 1):
        middle = 0.5 * (stack.states(i) + stack.states(i - 1))
        if layer is None:
            _text(ax, stack.left + 30, middle, "⋮", size=16)
            continue
        corner = (stack.left, middle - BOX / 2)
        _box(ax, corner, (stack.right, middle + BOX / 2), "", QUIET, fill="#F5F6F7", width=1.0)
        _text(ax, stack.left + 10, middle, f"layer {layer}", ha="left", weight="bold")
        if stack.columns[0] - stack.left > 150:
            _box(
                ax, (stack.left + 96, middle - 15), (stack.left + 206, middle + 15), r"$W+(\alpha/r)BA$", ADAPTER
            )
        else:
            ax.plot([stack.left + 4] * 2, [middle - 13, middle + 13], color=ADAPTER, linewidth=3.5, zorder=5)
    for column, (x, token) in enumerate(zip(stack.columns, tokens, strict=True)):
        ax.plot([x, x], [GROUND - 20, stack.top], color="#D5DAE0", linewidth=1.2, zorder=2)
        _text(ax, x, GROUND - 34, token, size=12, family="monospace", weight="bold" if column in read else "normal")
        for level in range(len(stack.layers) + 1):
            ringed = column in read and level == row
            edge, face = (AUXILIARY, "white") if ringed else (INK, INK)
            ax.plot(x, stack.states(level), "o", markersize=11 if ringed else 6, markeredgewidth=2.6, zorder=5,
                    markerfacecolor=face, markeredgecolor=edge)  # fmt: skip


def _brace(ax: Axes, stack: Stack, first: int, end: int, words: str) -> None:
    left, right, y = stack.columns[first] - 26, stack.columns[end - 1] + 26, GROUND - 52
    ax.plot([left, left, right, right], [y + 5, y, y, y + 5], color=QUIET, linewidth=1.2)
    _text(ax, 0.5 * (left + right), y - 14, words)


def _box(
    ax: Axes, low: tuple[float, float], high: tuple[float, float], words: str, colour: str, *, fill: str = "white",
    width: float = 2.2, dashed: bool = False,
) -> None:  # fmt: skip
    ax.add_patch(
        FancyBboxPatch(
            low, high[0] - low[0], high[1] - low[1], boxstyle="round,pad=0,rounding_size=7", facecolor=fill,
            edgecolor=colour, linewidth=width, linestyle=(0, (3, 2)) if dashed else "-", zorder=3 if words else 1,
        )
    )  # fmt: skip
    at = 0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1])
    ax.text(*at, words, ha="center", va="center", fontsize=12.5, color="#1D2430", zorder=6)


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, width: float, alpha: float = 1.0
) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=8 + 2 * width, color=colour, linewidth=width, shrinkA=0,
            shrinkB=0, alpha=alpha, zorder=4,
        )
    )  # fmt: skip


def _text(
    ax: Axes, x: float, y: float, words: str, *, size: float = 12.5, ha: str = "center", va: str = "center",
    weight: str = "normal", family: str | None = None,
) -> None:  # fmt: skip
    ax.text(x, y, words, ha=ha, va=va, fontsize=size, fontweight=weight, family=family, color=INK, zorder=6)
