"""residual_loss in Triton.

Samples that fit in one program's registers, alone or several together, take one launch: combine, reduce, finish, write
the gradient. Larger samples are streamed by several programs each: one pass that leaves sums and, for plain L2, whose
gradient does not wait for them, writes the gradient; a small kernel that finishes the sums; and for the other metrics
a second pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rcgm_kernels.backends.triton.common import BLOCK, COMPUTE, block_rows, warps
from rcgm_kernels.backends.triton.loss_channels import gradient_of_channels, sums_of_channels, whole_channels
from rcgm_kernels.backends.triton.loss_finish import finish_samples
from rcgm_kernels.backends.triton.loss_samples import gradient_of_samples, sums_of_samples, whole_samples
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.options import LossOptions
from rcgm_kernels.plan import LossPlan, Results, new_results

WHOLE = 16384  # elements of the largest sample that one program keeps in registers
TIGHT_CLIP = 1024.0  # as in formulas.h
MOST_CHANNELS = 128  # that a program takes at once
FINISHED_AT_ONCE = 1024  # sums of chunks that a program adds up at a time


class Form(NamedTuple):
    """What a kernel is compiled for; all numbers are given at run time, so that changing them compiles nothing."""

    times: bool
    pred_first: bool
    clip: bool
    metric: str
    cosine: bool
    channels: bool
    normalize: bool
    adaptive: str
    with_gradient: bool
    scaled: bool
    tight: bool
    compute: tl.dtype

    @property
    def gradient_waits(self) -> bool:
        """True if the factor of the gradient depends on the sums over the sample; formulas.h."""
        return self.metric != "l2" or self.cosine or self.normalize or self.adaptive != "" or not self.tight


def residual_loss(inputs: LossInputs, plan: LossPlan) -> Results:
    """See :func:`rcgm_kernels.backends.reference.residual_loss`."""
    inputs, options = inputs if plan.dense else inputs.with_dense_samples(), plan.options
    pred, terms, *numbers = inputs
    scalars, pred_coeff, scale, weight, normalize_scale = (
        None if values is None else values.contiguous() for values in numbers
    )
    batch, size, positions = plan.batch, plan.size, plan.positions
    _, gradient, scales = new_results(pred, plan.dtype, plan.options)
    losses = pred.new_empty(batch, dtype=plan.dtype)
    tensors = [pred, *terms] if options.pred_in_residual else terms
    read = {
        "PRED": pred,
        "PRED_STRIDE": pred.stride(0),
        "TENSORS": tuple(tensors),
        "STRIDES": tuple(tensor.stride(0) for tensor in tensors),
        "SCALARS": scalars,
        "PRED_COEFF": pred_coeff,
        "SCALE": scale,
        "WEIGHT": weight,
        "CLIP": options.clip,
    }
    finishing = {
        "LOSSES": losses,
        "SCALES": scales,
        "NORMALIZE_SCALE": normalize_scale,
        **_numbers(options, size, positions),
        "SHARE": options.share(batch),
    }
    form, written = _form(plan), pred.new_empty(0) if gradient is None else gradient
    if positions:
        _launch_channels(read, finishing, written, batch, size, positions, form)
    else:
        _launch(read, finishing, written, batch, size, form)
    if options.reduction == "mean":
        losses = losses.mean()
    elif options.reduction == "sum":
        losses = losses.sum()
    return losses, gradient, scales


def _form(plan: LossPlan) -> Form:
    options = plan.options
    metric = options.metric
    name = metric.name
    if name == "barron":  # its limits told apart
        name = {2.0: "barron_l2", 0.0: "cauchy", float("-inf"): "welsch"}.get(metric.alpha, name)
    elif name == "barron_reweighting" and metric.alpha == float("-inf"):
        name = "welsch_reweighting"
    return Form(
        times=options.times,
        pred_first=options.pred_in_residual,
        clip=options.clip != float("inf"),
        metric=name,
        cosine=metric.cosine != 0,
        channels=plan.positions > 0,
        normalize=options.normalize is not None,
        adaptive="" if options.adaptive is None else options.adaptive.of,
        with_gradient=options.with_gradient,
        scaled=plan.scaled,
        tight=not plan.scaled or options.clip <= TIGHT_CLIP,
        compute=COMPUTE[plan.dtype],
    )


def _numbers(options: LossOptions, size: int, positions: int) -> dict[str, float]:
    metric, adaptive = options.metric, options.adaptive
    return {
        "PER_ELEMENT": 1 / options.divisor(size),
        "WIDTH": float(metric.c),
        "SHAPE": float(metric.alpha),
        "COSINE": float(metric.cosine) / max(positions, 1),
        "NORMALIZE": 0.0 if options.normalize is None else float(options.normalize),
        "POWER": 0.0 if adaptive is None else float(adaptive.power),
        "EPS": 0.0 if adaptive is None else float(adaptive.eps),
    }


def _launch(read: dict, finishing: dict, gradient: Tensor, batch: int, size: int, form: Form) -> None:
    if size <= _largest_whole(len(read["TENSORS"]), form):
        columns = triton.next_power_of_2(size)
        rows = block_rows(batch, columns)
        block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
        where = {"BATCH": batch, "SIZE": size, "CHUNKS": 1}
        whole_samples[(triton.cdiv(batch, rows),)](**read, **finishing, GRADIENT=gradient, **where, FORM=form, **block)
        return
    chunks = triton.cdiv(size, BLOCK)
    partial = torch.empty((4 if form.cosine else 1, batch, chunks), dtype=torch.float64, device=gradient.device)
    factors = torch.empty((2, batch), dtype=torch.float64, device=gradient.device)
    where = {"BATCH": batch, "SIZE": size, "CHUNKS": chunks}
    block = {"ROWS": 1, "COLUMNS": BLOCK, "num_warps": warps(BLOCK)}
    at_once = form.with_gradient and not form.gradient_waits
    sums_of_samples[(batch * chunks,)](
        **read, PER_ELEMENT=finishing["PER_ELEMENT"], SHARE=finishing["SHARE"], GRADIENT=gradient, PARTIAL=partial,
        **where, AT_ONCE=at_once, FORM=form, **block,
    )  # fmt: skip
    columns = min(triton.next_power_of_2(chunks), FINISHED_AT_ONCE)
    finish_samples[(batch,)](
        SCALE=read["SCALE"], WEIGHT=read["WEIGHT"], CLIP=read["CLIP"], **finishing,
        PARTIAL=partial, FACTORS=factors, BATCH=batch, CHUNKS=chunks, FORM=form,
        ROUNDS=triton.cdiv(chunks, columns), COLUMNS=columns, num_warps=warps(columns),
    )  # fmt: skip
    if form.with_gradient and not at_once:
        gradient_of_samples[(batch * chunks,)](**read, GRADIENT=gradient, FACTORS=factors, **where, FORM=form, **block)


def _launch_channels(
    read: dict, finishing: dict, gradient: Tensor, batch: int, size: int, positions: int, form: Form
) -> None:
    """With a cosine over the channels at each position a program takes a tile of positions and walks the channels.

    A sample that one program holds takes one launch. Else the factors of each position wait in memory for the sums over
    the sample.
    """
    channels = size // positions
    rows = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    columns = triton.next_power_of_2(positions)
    where = {"BATCH": batch, "POSITIONS": positions, "CHANNELS": channels}
    if channels <= rows and rows * columns <= _largest_whole(len(read["TENSORS"]), form):
        block = {"ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
        whole_channels[(batch,)](**read, **finishing, GRADIENT=gradient, **where, FORM=form, **block)
        return
    columns = min(columns, max(BLOCK // rows, 16))
    chunks = triton.cdiv(positions, columns)
    partial = torch.empty((3, batch, chunks), dtype=torch.float64, device=gradient.device)
    factors = torch.empty((2, batch), dtype=torch.float64, device=gradient.device)
    each = torch.empty((2, batch, positions), dtype=finishing["LOSSES"].dtype, device=gradient.device)
    block = {"CHUNKS": chunks, "ROWS": rows, "COLUMNS": columns, "num_warps": warps(rows * columns)}
    sums_of_channels[(batch * chunks,)](**read, PARTIAL=partial, EACH=each, **where, FORM=form, **block)
    finishing_columns = min(triton.next_power_of_2(chunks), FINISHED_AT_ONCE)
    finish_samples[(batch,)](
        SCALE=read["SCALE"], WEIGHT=read["WEIGHT"], CLIP=read["CLIP"], **finishing,
        PARTIAL=partial, FACTORS=factors, BATCH=batch, CHUNKS=chunks, FORM=form,
        ROUNDS=triton.cdiv(chunks, finishing_columns), COLUMNS=finishing_columns, num_warps=warps(finishing_columns),
    )  # fmt: skip
    if form.with_gradient:
        gradient_of_channels[(batch * chunks,)](
            **read, GRADIENT=gradient, FACTORS=factors, EACH=each, **where, FORM=form, **block
        )


def _largest_whole(tensors: int, form: Form) -> int:
    """Elements of the largest sample that the registers of one program hold, beside what is being loaded."""
    return WHOLE // ((2 if form.compute == tl.float64 else 1) * (2 if tensors > 8 else 1))
