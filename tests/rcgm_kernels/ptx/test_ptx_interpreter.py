"""The PTX interpreter itself: what it computes, and what it refuses."""

from __future__ import annotations

import re
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.support.ptx.arithmetic import fused
from tests.support.ptx.faults import KernelError, UnknownInstructionError
from tests.support.ptx.formats import narrowed, widened
from tests.support.ptx.launch import launch
from tests.support.ptx.machine import Program
from tests.support.ptx.memory import Memory
from tests.support.ptx.text import Module
from tests.support.ptx.wave import Grid

HEAD = """
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry kernel(.param .u64 kernel_param_0, .param .u32 kernel_param_1)
{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .f32 %f<9>; .reg .b64 %d<20>;
.shared .align 8 .b8 own[256];
ld.param.u64 %d0, [kernel_param_0];
ld.param.u32 %r0, [kernel_param_1];
mov.u32 %r1, %tid.x;
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.s32 %r4, %r2, %r3, %r1;
mad.wide.u32 %d1, %r4, 4, %d0;
"""


def run(
    body: str, out: torch.Tensor, number: int = 0, blocks: int = 1, threads: int = 32, cluster: int = 1, **memory: bool
) -> list[int]:
    """The words of ``out`` after a kernel: %d0 is its address, %d1 that of the thread's word, %r0 the number."""
    program = Program.of(Module(f"{HEAD}{body}\nret;\n}}").kernel("kernel"))
    reachable = Memory()
    reachable.add(out, "out", **{"writable": True} | memory)
    parameters = struct.pack("<QI", out.data_ptr(), number)
    launch(program, reachable, parameters, Grid(blocks, threads, cluster, 64))
    return out.tolist()


def words(count: int = 32) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int32)


def test_threads_part_and_meet():
    body = """
    setp.lt.u32 %p1, %r1, 10;
    @%p1 bra LOW;
    mul.lo.s32 %r5, %r1, 2;
    bra.uni JOIN;
    LOW: add.s32 %r5, %r1, 100;
    JOIN: bar.sync 0;
    @!%p1 add.s32 %r5, %r5, 1;
    st.global.u32 [%d1], %r5;
    """
    assert run(body, words()) == [i + 100 if i < 10 else 2 * i + 1 for i in range(32)]


def test_loop_with_another_length_in_each_thread():
    body = """
    mov.u32 %r5, 0; mov.u32 %r6, 0;
    AGAIN: add.s32 %r5, %r5, %r6;
    add.s32 %r6, %r6, 1;
    setp.le.u32 %p1, %r6, %r1;
    @%p1 bra AGAIN;
    st.global.u32 [%d1], %r5;
    """
    assert run(body, words(128), threads=64, blocks=2) == [i * (i + 1) // 2 for i in range(64)] * 2


def test_shared_memory_and_scoped_registers():
    body = """
    mov.u32 %r5, own; shl.b32 %r6, %r1, 2; add.s32 %r7, %r5, %r6; st.shared.u32 [%r7], %r1;
    bar.sync 0;
    { .reg .b32 %t; xor.b32 %t, %r1, 31; shl.b32 %t, %t, 2; add.s32 %r8, %r5, %t; }
    { .reg .b64 %t; mov.b64 %t, 7; cvt.u32.u64 %r9, %t; }
    ld.shared.u32 %r10, [%r8];
    add.s32 %r10, %r10, %r9;
    st.global.u32 [%d1], %r10;
    """
    assert run(body, words()) == [38 - i for i in range(32)]


@pytest.mark.parametrize(
    ("how", "by", "bound", "expected"),
    [
        ("bfly", 1, 31, lambda i: i ^ 1),
        ("down", 3, 31, lambda i: i + 3 if i + 3 < 32 else i),
        ("up", 3, 0, lambda i: i - 3 if i >= 3 else i),
        ("idx", 5, 31, lambda i: 5),
        ("bfly", 2, 0x1C1F, lambda i: i ^ 2),
        ("idx", 2, 0x181F, lambda i: i // 8 * 8 + 2),
    ],
)
def test_shuffles(how: str, by: int, bound: int, expected):
    body = f"shfl.sync.{how}.b32 %r5|%p1, %r1, {by}, {bound}, -1; st.global.u32 [%d1], %r5;"
    assert run(body, words()) == [expected(i) for i in range(32)]


CLUSTER = """
mov.u32 %r5, own; cvt.u64.u32 %d2, %r5; cvta.shared.u64 %d3, %d2;
mov.u32 %r6, %cluster_ctarank;
setp.eq.s32 %p1, %r1, 0;
@%p1 st.shared.u32 [%r5], %r2;
barrier.cluster.arrive; barrier.cluster.wait;
add.s32 %r7, %r6, 1; rem.u32 %r7, %r7, %r0;
"""


@pytest.mark.parametrize("cluster", [2, 8, 16])
def test_shared_memory_of_the_cluster(cluster: int):
    generic = CLUSTER + "mapa.u64 %d4, %d3, %r7; ld.u32 %r8, [%d4];"
    named = CLUSTER + "mapa.shared::cluster.u32 %r9, %r5, %r7; ld.shared::cluster.u32 %r8, [%r9];"
    rest = "barrier.cluster.arrive; barrier.cluster.wait; st.global.u32 [%d1], %r8;"
    expected = [i // 32 // cluster * cluster + (i // 32 + 1) % cluster for i in range(64 * cluster)]
    for body in (generic, named):
        got = run(body + rest, words(64 * cluster), cluster, blocks=2 * cluster, cluster=cluster)
        assert got == expected
    with pytest.raises(KernelError, match="block 0 may end while another reads its shared memory"):
        run(generic + "st.global.u32 [%d1], %r8;", words(64 * cluster), cluster, blocks=2 * cluster, cluster=cluster)


def test_function_calls_are_inlined():
    function = """
    .func (.param .b32 result) twice(.param .b32 twice_param_0)
    { .reg .pred %p<2>; .reg .b32 %r<3>; ld.param.b32 %r1, [twice_param_0];
      setp.gt.u32 %p1, %r1, 9; @%p1 bra L; add.s32 %r1, %r1, 0; L: add.s32 %r2, %r1, %r1;
      st.param.b32 [result+0], %r2; ret; }
    """
    call = """
    { .param .b32 param0; st.param.b32 [param0+0], %r5; .param .b32 back;
      call.uni (back), twice, (param0); ld.param.b32 %r5, [back+0]; }
    """
    text = HEAD.replace(".visible .entry", function + ".visible .entry")
    program = Program.of(
        Module(f"{text} add.s32 %r5, %r1, 1; {call}{call} st.global.u32 [%d1], %r5; ret; }}").kernel("kernel")
    )
    out, memory = words(), Memory()
    memory.add(out, "out", writable=True)
    launch(program, memory, struct.pack("<QI", out.data_ptr(), 0), Grid(1, 32, 1, 0))
    assert out.tolist() == [4 * (i + 1) for i in range(32)]


def test_values_are_extended_by_their_type():
    body = """
    st.shared.u16 [own], %r0; bar.sync 0;
    ld.shared.s16 %r5, [own]; ld.shared.u16 %r6, [own]; ld.param.s32 %d5, [kernel_param_1]; shr.s64 %d6, %d5, 32;
    cvt.u32.u64 %r7, %d6; add.s32 %r8, %r5, %r6; add.s32 %r8, %r8, %r7; st.global.u32 [%d1], %r8;
    """
    assert run(body, words(), number=0xFFFFFFFE) == [-2 + 0xFFFE - 1] * 32


def test_the_last_block_is_found_by_an_atomic():
    body = """
    setp.ne.s32 %p1, %r1, 0; @%p1 bra END;
    atom.global.inc.u32 %r5, [%d0], 2;
    cvt.u64.u32 %d5, %r2; shl.b64 %d5, %d5, 2; add.s64 %d6, %d0, %d5; st.global.u32 [%d6+4], %r5;
    END:
    """
    assert run(body, words(8), blocks=3)[:4] == [0, 0, 1, 2]


REFUSED = {
    "out of bounds": ("st.global.u32 [%d1+4], %r1;", "out of bounds"),
    "below": ("st.global.u32 [%d1+-4], %r1;", "out of bounds"),
    "misaligned": ("ld.global.v2.u32 {%r5, %r6}, [%d1];", "not a multiple of 8"),
    "address without a value": ("st.global.u32 [%d9], %r1;", "%d9 has no value"),
    "condition without a value": ("@%p3 add.s32 %r5, %r1, 1;", "%p3 has no value"),
    "stored without a value": ("add.s32 %r5, %r1, %r9; st.global.u32 [%d1], %r5;", "what has no value is stored"),
    "shared memory without a value": ("ld.shared.u32 %r5, [own]; st.global.u32 [%d1], %r5;", "what has no value is"),
    "a value in some threads": (
        "setp.lt.u32 %p1, %r1, 5; @%p1 mov.u32 %r5, 1; st.global.u32 [%d1], %r5;",
        "no value is stored, in block 0, thread 5",
    ),
    "shared out of bounds": ("mov.u32 %r5, dynamic; st.shared.u32 [%r5+64], %r1;", "out of bounds"),
    "shared misaligned": ("mov.u32 %r5, own; st.shared.v2.u32 [%r5+4], {%r1, %r1};", "8 bytes at 4"),
    "parameters": ("ld.param.u32 %r5, [kernel_param_1+4];", "parameters at offsets 12 to 12 of 12 bytes"),
    "a barrier in a branch": (
        "setp.lt.u32 %p1, %r1, 5; @%p1 bra L; bar.sync 0; L: ret;",
        "but block 0, thread 0 has returned",
    ),
    "different barriers": (
        "setp.lt.u32 %p1, %r1, 5; @%p1 bra L; bar.sync 0; bra M; L: bar.sync 0; M: add.s32 %r5, %r1, 1;",
        "waits at instruction",
    ),
    "shuffle in a branch": (
        "setp.lt.u32 %p1, %r1, 5; @%p1 bra L; shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; L: bar.sync 0;",
        "is elsewhere",
    ),
    "rank": ("mov.u32 %r5, own; mapa.shared::cluster.u32 %r6, %r5, 1;", "block 1 of a cluster of 1"),
    "half a cluster barrier": ("barrier.cluster.wait;", "without an arrival"),
    "division by zero": ("div.s32 %r5, %r1, %r0;", "divided by zero"),
    "trap": ("trap;", "trap in block 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str):
    body, message = REFUSED[name]
    with pytest.raises(KernelError, match=re.escape(message)):
        run(body, words())


def test_refuses_to_write_what_is_read_only():
    with pytest.raises(KernelError, match="only to be read"):
        run("st.global.u32 [%d1], %r1;", words(), writable=False)


def test_new_memory_has_no_value_until_it_is_written():
    copy = "ld.global.u32 %r5, [%d1]; st.global.u32 [%d1], %r5;"
    with pytest.raises(KernelError, match="what has no value is stored"):
        run(copy, words(), fresh=True)
    assert run("st.global.u32 [%d1], %r1;" + copy, words(), fresh=True) == list(range(32))


@pytest.mark.parametrize(
    "text",
    ["wgmma.fence.sync.aligned;", "add.rz.f32 %f1, %f2, %f3;", "ld.tex.u32 %r5, [%d1];", "bra NOWHERE;", "bar.sync 1;"],
)
def test_names_the_instruction_it_does_not_know(text: str):
    with pytest.raises(UnknownInstructionError, match=re.escape(text.rstrip(";"))):
        run(text, words())


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_16_bit_formats_are_those_of_torch(name: str, dtype: torch.dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    wide = bits.view(dtype).float()
    assert np.array_equal(widened(bits.numpy().view(np.uint16), name), wide.numpy(), equal_nan=True)
    between = torch.cat([wide, torch.nextafter(wide, torch.tensor(torch.inf)), wide * 1.00390625, wide * 1.00048828125])
    got = torch.from_numpy(narrowed(between.numpy(), name).view(np.int16)).view(dtype)
    torch.testing.assert_close(got, between.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_fused_products_are_rounded_once():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 2000))
    c = np.where(np.arange(2000) % 2 == 0, -a * b, generator.standard_normal(2000))
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert fused(a, b, c).tolist() == exact
    assert np.isnan(fused(np.array(np.inf), np.array(0.0), np.array(1.0)))
    assert fused(np.array(np.inf), np.array(1.0), np.array(1.0)) == np.inf
