"""The CUDA backend: its code compiles without spills, and its numbers are those of the reference in float64.

Every test of numbers runs on a GPU where there is one, and everywhere on an emulated device: the kernels' own source
compiled for the host (cuda_emulation/cuda_runtime.h), which also checks barriers, shared memory and launch
configurations.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rcgm_kernels.backends import cuda, reference
from rcgm_kernels.inputs import LossInputs
from rcgm_kernels.layout import batched
from rcgm_kernels.options import AdaptiveWeight, LossOptions, Metric
from rcgm_kernels.plan import LossPlan
from tests.support.compiled import Compilation, make_all, run

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"), key=lambda source: -source.stat().st_size)  # slowest first
HEADERS = tuple(path for path in (ROOT / "csrc").rglob("*.*") if path.suffix in (".h", ".cuh"))
EMULATION = Path(__file__).resolve().parent / "cuda_emulation"
ARCHS = ("80", "90", "100")
GUARD = 64  # elements on either side of what a kernel may write
F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {F64: 1e-12, F32: 2e-5, F16: 1e-3, BF16: 8e-3}


def host_compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return compiler


def bindings(target: Path, *flags: str) -> Compilation:
    pybind11 = pytest.importorskip("pybind11")
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    source = ROOT / "csrc" / "cuda" / "bindings.cpp"
    command = (host_compiler(), "-std=c++17", "-fPIC", *flags, *includes, "-c", str(source))
    return Compilation(command, target, (source, *HEADERS), f"Python {sys.version}, pybind11 {pybind11.__version__}")


def load_extension(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The build


@dataclass
class Build:
    report: str  # of ptxas
    extension: Path


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The extension for three architectures, as setup.py builds it, and what ptxas says of its kernels."""
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    nvcc = next(
        (str(home / "bin" / "nvcc") for home in homes if (home / "bin" / "nvcc").exists()), shutil.which("nvcc")
    )
    if nvcc is None:
        pytest.skip("no nvcc")
    known = run([nvcc, "--list-gpu-arch"]).split()
    gencode = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS if f"compute_{arch}" in known]
    folder = tmp_path_factory.mktemp("cuda")
    flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC", "-Xptxas=-v", *gencode]
    objects = [
        Compilation((nvcc, *flags, "-c", str(source)), folder / f"{source.stem}.o", (source, *HEADERS))
        for source in SOURCES
    ]
    report = "".join(make_all([*objects, bindings(folder / "bindings.o", "-O1")]))
    home = Path(nvcc).resolve().parent.parent
    libraries = [f"-L{home / name}" for name in ("lib64", "lib") if (home / name).exists()]
    extension = folder / "_cuda.so"
    paths = [str(path) for path in sorted(folder.glob("*.o"))]
    system = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    run([host_compiler(), "-shared", *paths, *libraries, *system, "-o", str(extension)])
    return Build(report, extension)


def test_kernels_use_no_local_memory(build: Build) -> None:
    usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", build.report)
    assert len(usage) >= 40 * len(set(re.findall(r"for '(sm_\d+)'", build.report)))
    assert set(usage) == {("0", "0", "0")}
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", build.report)]
    assert max(registers) <= 128


def test_extension_can_be_imported_without_a_device(build: Build) -> None:
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_cuda', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print('problem:', module.problem())\n"
    )
    said = run([sys.executable, "-c", code, str(build.extension)])
    if torch.cuda.is_available():
        assert said == "problem: \n"
    else:
        assert "no usable CUDA device or driver" in said


def test_unavailable_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        @staticmethod
        def problem() -> str:
            return "there is no usable CUDA device or driver (no CUDA-capable device is detected)"

    monkeypatch.setattr(cuda, "_cuda", NoDriver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reason = cuda.unavailable.__wrapped__()
    assert "finds no CUDA device" in reason
    assert "no CUDA-capable device is detected" in reason
    monkeypatch.setattr(cuda, "_cuda", None)
    monkeypatch.setattr(cuda, "_IMPORT_ERROR", ImportError("no such file"), raising=False)
    assert "RCGM_CUDA=1 pip install" in cuda.unavailable.__wrapped__()


def test_cpu_tensors_are_not_supported() -> None:
    assert not cuda.supports(torch.device("cpu"))


# The places where the kernels run


@dataclass
class Place:
    """A device, real or emulated, with every new tensor poisoned and guarded on both sides."""

    device: torch.device
    module: ModuleType
    library: ctypes.CDLL | None = None  # of the emulated device
    guarded: list[tuple[Tensor, int]] = field(default_factory=list)
    losses: list[tuple] = field(default_factory=list)  # arguments of the losses that were launched

    def emulate(
        self, multiprocessors: int = 4, shared: int = 227 << 10, cluster: int = 16, backwards: bool = False
    ) -> None:
        """Change the emulated device; a real one stays as it is."""
        if self.library is not None:
            self.library.emulate(multiprocessors, shared, cluster, int(backwards))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        buffer = torch.full((size + 2 * GUARD,), math.nan, dtype=dtype, device=self.device)
        self.guarded.append((buffer, size))
        return buffer[GUARD : GUARD + size].view(shape)

    def check_guards(self) -> None:
        for buffer, size in self.guarded:
            assert buffer[:GUARD].isnan().all()
            assert buffer[GUARD + size :].isnan().all()

    def path(self) -> tuple[str, int, int]:
        """How the last loss was split: path, threads a sample, blocks a cluster."""
        return self.module.describe_loss((0, 0), self.losses[-1])[:3]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("emulated")
    compiler, flags = host_compiler(), ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w"]
    flags += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a GPU faults at what a CPU forgives
    includes = [f"-I{EMULATION}", f"-I{ROOT / 'csrc'}"]
    headers = (*HEADERS, *EMULATION.glob("*.h"))
    objects = [
        Compilation(
            (compiler, *flags, *includes, "-x", "c++", "-c", str(source)),
            folder / f"{source.stem}.o",
            (source, *headers),
        )
        for source in [*SOURCES, EMULATION / "emulation.cpp"]
    ]
    make_all([*objects, bindings(folder / "bindings.o", "-O0", "-fvisibility=hidden")])
    library = folder / "_cuda.so"
    run([compiler, "-shared", *[str(path) for path in folder.glob("*.o")], "-lpthread", "-o", str(library)])
    handle = ctypes.CDLL(str(library))
    handle.emulated_launches.restype = ctypes.c_int64
    return load_extension(library), handle


@pytest.fixture(params=["emulated", "gpu"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "gpu":
        reason = cuda.unavailable()
        if reason is not None:
            pytest.skip(reason)
        here = Place(torch.device("cuda", 0), cuda._cuda)
    else:
        module, library = request.getfixturevalue("emulated")
        here = Place(torch.device("cpu"), module, library)
        counter = torch.zeros(1, dtype=torch.int32)
        monkeypatch.setattr(cuda, "_cuda", module)
        monkeypatch.setattr(cuda, "_counter", lambda device: counter)
    launch_on_gpu = cuda._launch

    def launch(name: str, device: torch.device, *arguments: object) -> None:
        if name == "residual_loss":
            here.losses.append(arguments[0])
        if request.param == "gpu":
            launch_on_gpu(name, device, *arguments)
        else:
            getattr(cuda._cuda, name)((0, 0), *arguments)

    def empty(*shape, dtype: torch.dtype, device: torch.device) -> Tensor:
        assert torch.device(device).type == here.device.type
        sizes = shape[0] if isinstance(shape[0], tuple) else shape
        return here.empty(tuple(sizes), dtype)

    monkeypatch.setattr(cuda, "_launch", launch)
    monkeypatch.setattr(torch, "empty", empty)
    here.emulate()
    yield here
    if request.param == "emulated":
        assert counter.item() == 0
    here.check_guards()


# Losses


L2 = Metric()


@dataclass(frozen=True)
class Case:
    batch: int
    size: int
    dtypes: tuple[torch.dtype, ...]  # of the prediction and the terms
    times: bool = False
    pred_in_residual: bool = True
    pred_coeff: bool = False
    scale: bool = False
    weight: bool = False
    clip: float = 1.5
    metric: Metric = L2
    normalize: float | None = None
    normalize_scale: bool = False
    adaptive: AdaptiveWeight | None = None
    reduce: str = "mean"
    reduction: str = "mean"
    channels: int | None = None  # of size / channels positions
    with_gradient: bool = True
    scalar_dtype: torch.dtype = F32
    seed: int = 0

    @property
    def options(self) -> LossOptions:
        return LossOptions(
            times=self.times,
            pred_in_residual=self.pred_in_residual,
            clip=self.clip,
            metric=self.metric,
            normalize=self.normalize,
            adaptive=self.adaptive,
            reduce=self.reduce,
            reduction=self.reduction,
            with_gradient=self.with_gradient,
        )

    def inputs(self) -> LossInputs:
        """The tensors of the call, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=F64)

        def numbers(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=F64).add(0.5).to(self.scalar_dtype)

        shape = (self.size,) if self.channels is None else (self.channels, self.size // self.channels)
        tensors = [normal(self.batch, *shape).to(dtype) for dtype in self.dtypes]
        count = len(tensors) - 1
        if self.times:
            # base (unless it is the prediction), segments, velocity
            knots = count + 1 if self.pred_in_residual else count
            steps = torch.rand(knots - 1, self.batch, generator=generator, dtype=F64) * 0.2 + 0.02
            scalars = (1 - torch.cat([torch.zeros(1, self.batch), steps.cumsum(0)])).to(self.scalar_dtype)
            scalars[2:, ::3] = scalars[1, ::3]  # no segments there: plain flow matching
        else:
            scalars = numbers(count, self.batch) * torch.tensor([1.0, -1.0]).repeat(count)[:count, None]
            scalars = scalars.to(self.scalar_dtype)
            if count > 1:
                scalars[1, ::2] = 0
        wanted = (self.pred_coeff, self.scale, self.weight, self.normalize_scale)
        optional = [numbers(self.batch) if each else None for each in wanted]
        return LossInputs(tensors[0], tensors[1:], scalars, *optional)


def moved(value: object, device: torch.device, dtype: torch.dtype | None = None) -> object:
    if isinstance(value, Tensor):
        return value.to(device, dtype or value.dtype)
    if isinstance(value, LossInputs):
        return LossInputs(*(moved(item, device, dtype) for item in value))
    return [moved(item, device, dtype) for item in value] if isinstance(value, list) else value


def loss_by(backend: ModuleType, case: Case, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    return backend.residual_loss(inputs, LossPlan.of(inputs, case.options))


def expected(case: Case, inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """The reference, in float64, on what the narrower dtypes hold."""
    return loss_by(reference, case, moved(inputs, torch.device("cpu"), F64))[:2]


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    got, want = got.detach().cpu().double(), want.double()
    assert got.shape == want.shape
    assert torch.equal(got.isnan(), want.isnan())
    error, size = (got - want).nan_to_num().norm(), want.nan_to_num().norm()
    assert error <= tolerance * size + 1e-30, f"relative error {float(error / size):.2e}, allowed {tolerance:.0e}"


def check_loss(place: Place, case: Case, inputs: LossInputs | None = None) -> tuple[Tensor, Tensor]:
    inputs = case.inputs() if inputs is None else inputs
    got_loss, got_gradient, scales = loss_by(cuda, case, moved(inputs, place.device))
    want_loss, want_gradient = expected(case, inputs)
    compute = F64 if F64 in case.dtypes else F32
    assert got_loss.dtype == compute
    assert got_gradient.dtype == case.dtypes[0]
    assert_close(got_loss, want_loss, TOLERANCE[compute])
    if case.with_gradient:
        assert got_gradient.is_contiguous()
        if case.dtypes[0] == F16:
            assert scales.shape == (case.batch,)
            assert got_gradient.nan_to_num(0, 0, 0).abs().max() < 2**15 * (1 + 1e-3)
            got_gradient = got_gradient.double() / batched(scales.double(), got_gradient)
        else:
            assert not scales.numel()
        assert_close(got_gradient, want_gradient, max(TOLERANCE[case.dtypes[0]], TOLERANCE[compute]))
    else:
        assert got_gradient.numel() == 0
    return got_loss, got_gradient


METRICS = {
    "l2": {},
    "pseudo_huber": {"metric": Metric("pseudo_huber", c=0.1)},
    "barron": {"metric": Metric("barron", c=0.5, alpha=-2.0), "adaptive": AdaptiveWeight(0.5, 1e-2)},
    "welsch": {"metric": Metric("barron", c=0.5, alpha=-math.inf)},
    "cosine": {"metric": Metric("l2", cosine=0.5), "adaptive": AdaptiveWeight(1.0, 1e-3)},
    "normalized": {"normalize": 0.1, "normalize_scale": True},
    "sum": {"reduce": "sum", "clip": 2000.0},
    "reweighting": {"metric": Metric("barron_reweighting", 0.5), "reduce": "sum"},
    "of the loss": {"metric": Metric("pseudo_huber", c=0.1, cosine=0.5), "adaptive": AdaptiveWeight(1.0, 1e-5, "loss")},
}
DTYPES = {
    "float64": (F64,) * 4,
    "float32": (F32,) * 4,
    "float16": (F16,) * 4,
    "bfloat16": (BF16,) * 4,
    "mixed": (BF16, F16, F16, F32),
    "mixed with float64": (F32, F64, BF16, F16),
}
SIZES = (1, 2, 7, 8, 64, 1000, 1025, 4096, 20000)


@pytest.mark.parametrize("turn", [0, 3])
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_loss_of_coefficients(place: Place, size: int, dtypes: str, turn: int) -> None:
    """Every size with every dtype, with two metrics each: so every size and every dtype also meets every metric."""
    seed = SIZES.index(size) + list(DTYPES).index(dtypes) + turn
    batch = 5 if size > 2 else 300
    extras = {"pred_coeff": seed % 2 == 0, "scale": seed % 3 == 0, "weight": seed % 3 == 1}
    extras["scalar_dtype"] = F64 if seed % 2 else F32
    extras["reduction"] = ("mean", "sum", "none")[size % 3]
    extras |= list(METRICS.values())[seed % len(METRICS)]
    check_loss(place, Case(batch, size, DTYPES[dtypes], seed=seed, **extras))


@pytest.mark.parametrize("pred_in_residual", [True, False])
@pytest.mark.parametrize("order", [0, 1, 2, 5, 9, 29])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_loss_of_knots(place: Place, metric: str, order: int, pred_in_residual: bool) -> None:
    dtypes = (BF16,) + (F16,) * (order + (not pred_in_residual)) + (F32,)
    case = Case(4, 96, dtypes, times=True, pred_in_residual=pred_in_residual, reduction="none", **METRICS[metric])
    check_loss(place, case)
    check_loss(place, replace(case, size=5000, scalar_dtype=F64))


@pytest.mark.parametrize("tensors", [1, 2, 32])
@pytest.mark.parametrize("pred_in_residual", [True, False])
def test_any_number_of_tensors(place: Place, tensors: int, pred_in_residual: bool) -> None:
    dtypes = (F32,) * (tensors + (not pred_in_residual))
    for size in (3, 24, 3000):
        check_loss(place, Case(3, size, dtypes, pred_in_residual=pred_in_residual, **METRICS["pseudo_huber"]))


@pytest.mark.parametrize("clip", [0.25, math.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [6, 512, 9000])
@pytest.mark.parametrize("metric", ["l2", "barron"])
def test_loss_without_gradient(place: Place, metric: str, size: int, reduction: str, clip: float) -> None:
    extras = METRICS[metric] | {"reduction": reduction, "clip": clip}
    check_loss(place, Case(7, size, (BF16,) * 3, with_gradient=False, weight=True, **extras))


CHANNELS = {"metric": Metric("pseudo_huber", c=0.1, cosine=0.5)}
ALONE = {"metric": Metric("l2", cosine=0.5)}  # its gradient waits for the sums of a position, not of the sample


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize(("channels", "positions"), [(2, 2), (4, 9), (3, 64), (128, 3), (37, 40), (4, 1024)])
def test_cosine_over_channels(place: Place, channels: int, positions: int, dtypes: str) -> None:
    extras = CHANNELS if (channels + positions) % 2 else ALONE
    extras = extras | {"reduction": ("mean", "sum", "none")[positions % 3], "weight": True, "pred_coeff": True}
    check_loss(place, Case(3, channels * positions, DTYPES[dtypes], channels=channels, **extras))


# (channels, batch, size, dtypes, extras, emulated device, path, blocks a cluster)
CHANNEL_PATHS = {
    "a block a sample": (4, 9, 4096, (BF16,) * 3, CHANNELS, {}, "on chip", 1),
    "two blocks a sample": (4, 2, 4 * 4099, (F32,) * 3, CHANNELS, {}, "on chip", 2),
    "eight blocks a sample": (16, 1, 102400, (BF16, F32, F16), CHANNELS, {}, "on chip", 8),
    "sixteen blocks a sample": (3, 2, 150000, (F32,) * 2, ALONE, {"shared": 80 << 10}, "on chip", 16),
    "two passes": (16, 3, 64000, (F16,) * 3, CHANNELS, {"cluster": 1, "shared": 100 << 10}, "two passes", 1),
    "nothing kept": (8, 2, 8 * 2050, (F32,) * 3, CHANNELS, {"cluster": 1, "shared": 48 << 10}, "two passes", 1),
    "two passes, double": (16, 2, 24000, (F64,) * 3, CHANNELS, {"cluster": 1, "shared": 150 << 10}, "two passes", 1),
    "at once": (16, 3, 64000, (F32,) * 3, ALONE, {"cluster": 1, "shared": 100 << 10}, "stream", 1),
    "at once, nothing kept": (600, 2, 600 * 40, (F32,) * 3, ALONE, {"cluster": 1, "shared": 48 << 10}, "stream", 1),
    "sums alone": (16, 2, 48000, (F32,) * 3, CHANNELS | {"with_gradient": False}, {}, "on chip", 2),
}


@pytest.mark.parametrize("name", CHANNEL_PATHS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_way_to_split_channels(place: Place, name: str, reduction: str) -> None:
    channels, batch, size, dtypes, extras, device, path, cluster = CHANNEL_PATHS[name]
    case = Case(batch, size, dtypes, channels=channels, weight=True, scale=True, reduction=reduction, **extras)
    place.emulate(**device)
    first = check_loss(place, case)
    if place.library is not None:
        got_path, _, got_cluster = place.path()
        assert (got_path, got_cluster) == (path, cluster)
    place.emulate(**device, backwards=True)
    for one, other in zip(first, check_loss(place, case), strict=True):
        assert torch.equal(one, other)


# (batch, size, dtypes, extras, emulated device, path, blocks a cluster)
PATHS = {
    "a lane a sample": (700, 2, (F32,) * 3, METRICS["pseudo_huber"], {}, "on chip", 1),
    "a warp a sample": (20, 256, (BF16,) * 3, METRICS["pseudo_huber"], {}, "on chip", 1),
    "two samples a block": (7, 1024, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 1),
    "a block a sample": (6, 4096, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 1),
    "two blocks a sample": (1, 16384, (BF16,) * 3, METRICS["cosine"], {}, "on chip", 2),
    "two blocks, odd": (2, 16385, (F32,) * 3, METRICS["normalized"], {}, "on chip", 2),
    "eight blocks a sample": (2, 100000, (BF16, F32, F16), METRICS["cosine"], {}, "on chip", 8),
    "sixteen blocks a sample": (2, 200000, (F32,) * 2, METRICS["barron"], {"shared": 80 << 10}, "on chip", 16),
    "no clusters, on chip": (2, 40000, (F32,) * 3, METRICS["cosine"], {"cluster": 1}, "on chip", 1),
    "no clusters, two passes": (3, 70000, (BF16,) * 3, METRICS["cosine"], {"cluster": 1}, "two passes", 1),
    "two passes, odd": (3, 5001, (F16,) * 3, METRICS["barron"], {"cluster": 1, "shared": 16 << 10}, "two passes", 1),
    "two passes, double": (2, 7000, (F64,) * 3, METRICS["cosine"], {"cluster": 1, "shared": 16 << 10}, "two passes", 1),
    "a small part of a device": (1, 40000, (F32,) * 3, METRICS["cosine"], {"cluster": 2}, "on chip", 2),
    "stream, a block a sample": (40, 1500, (F32,) * 3, {}, {}, "stream", 1),
    "stream, blocks of a sample": (2, 70000, (BF16,) * 4, {}, {}, "stream", 1),
    "stream, many chunks": (1, 150001, (F16,) * 2, {}, {"multiprocessors": 132}, "stream", 1),
    "sums alone": (2, 50000, (F32,) * 3, METRICS["cosine"] | {"with_gradient": False}, {}, "stream", 1),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_way_to_split_the_work(place: Place, name: str, reduction: str) -> None:
    batch, size, dtypes, extras, device, path, cluster = PATHS[name]
    case = Case(batch, size, dtypes, weight=True, scale=True, reduction=reduction, **extras)
    place.emulate(**device)
    first = check_loss(place, case)
    if place.library is not None:
        got_path, _, got_cluster = place.path()
        assert (got_path, got_cluster) == (path, cluster)
    # The same bits in whatever order the threads come.
    place.emulate(**device, backwards=True)
    for one, other in zip(first, check_loss(place, case), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [1_200_000, 8_000_000])
def test_samples_larger_than_a_cluster(place: Place, size: int) -> None:
    if place.library is not None:
        pytest.skip("for a real device; the emulated one has smaller limits for this")
    check_loss(place, Case(2, size, (BF16,) * 3, **METRICS["cosine"]))
    assert place.path()[0] == "two passes"


@pytest.mark.parametrize("size", [3, 40, 1000, 3000, 40000])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_samples_do_not_touch_each_other(place: Place, metric: str, size: int) -> None:
    case = Case(6, size, (F32,) * 3, weight=True, reduction="none", **METRICS[metric])
    inputs = case.inputs()
    clean_loss, clean_gradient = (out.clone() for out in check_loss(place, case, inputs))
    inputs.pred[1, size // 2] = math.nan
    inputs.terms[1][2, 0] = math.inf
    inputs.scalars[0, 3] = math.nan
    inputs.weight[4] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    for sample in (0, 5):
        assert torch.equal(loss[sample], clean_loss[sample])
        assert torch.equal(gradient[sample], clean_gradient[sample])
    assert loss[[1, 3, 4]].isnan().all()
    assert gradient[3].isnan().all()


@pytest.mark.parametrize("size", [12, 900, 5000])
def test_terms_with_coefficient_zero_are_not_read(place: Place, size: int) -> None:
    case = Case(5, size, (BF16, BF16, F32, BF16), pred_coeff=True, reduction="none")
    inputs = case.inputs()
    inputs.scalars[:, 0] = 0  # nothing but the prediction
    inputs.pred_coeff[1] = 0  # no anchor
    inputs.pred[1] = math.nan
    for k, term in enumerate(inputs.terms):
        term[inputs.scalars[k] == 0] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert not loss.isnan().any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("size", [12, 5000])
def test_unneeded_segments_and_prediction_are_not_read(place: Place, size: int) -> None:
    case = Case(4, size, (F16,) * 5, times=True, pred_in_residual=False, reduction="none", **METRICS["pseudo_huber"])
    inputs = case.inputs()
    inputs.pred.fill_(math.nan)
    for segment in inputs.terms[1:-1]:
        segment[::3] = math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert not loss.isnan().any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("order", [0, 2])
def test_knots_unordered_or_not_finite_give_nan_in_their_sample(
    place: Place, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    monkeypatch.setattr(reference.checks, "ordered_times", lambda *_: None)  # the reference gives NaN too, unasked
    case = Case(6, 40, (F32,) * (order + 2), times=True, reduction="none")
    inputs = case.inputs()
    inputs.scalars[order + 1, 1] = 2.0
    inputs.scalars[0, 2] = math.inf
    inputs.scalars[order + 1, 4] = -math.inf
    inputs.scalars[:, 5] = math.inf
    loss, gradient = check_loss(place, case, inputs)
    assert loss.isnan().tolist() == [False, True, True, False, True, True]
    assert gradient.isnan().any(1).tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("size", [2, 64, 900, 5000])
@pytest.mark.parametrize("metric", ["l2", "cosine", "channels", "normalized", "pseudo_huber"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_sample_of_weight_zero_is_not_read(place: Place, metric: str, size: int, reduction: str) -> None:
    extras = CHANNELS | {"channels": 2} if metric == "channels" else METRICS[metric]
    case = Case(5, size, (F16,) * 3, pred_coeff=True, scale=True, weight=True, reduction=reduction, **extras)
    inputs = case.inputs()
    inputs.weight[torch.tensor([1, 4])] = 0
    for tensor in (inputs.pred, *inputs.terms):
        tensor[1], tensor[4] = math.nan, math.inf
    for numbers in (inputs.scalars.T, inputs.pred_coeff, inputs.scale):
        numbers[1], numbers[4] = math.inf, math.nan
    loss, gradient = check_loss(place, case, inputs)
    assert loss.isfinite().all()
    assert (gradient[[1, 4]] == 0).all() and (gradient[0] != 0).any()


def strided(tensor: Tensor, how: str) -> Tensor:
    batch, size = tensor.shape
    if how == "slice of a larger batch":
        wide = torch.full((2 * batch, size), math.nan, dtype=tensor.dtype, device=tensor.device)
        wide[::2] = tensor
        return wide[::2]
    if how == "expanded":
        return tensor[:1].expand(batch, size)
    if how == "misaligned":
        flat = torch.full((batch * size + 1,), math.nan, dtype=tensor.dtype, device=tensor.device)
        flat[1:] = tensor.reshape(-1)
        return flat[1:].view(batch, size)
    if how == "misaligned rows":
        wide = torch.full((batch, size + 1), math.nan, dtype=tensor.dtype, device=tensor.device)
        wide[:, :size] = tensor
        return wide[:, :size]
    assert how == "transposed"
    return tensor.t().contiguous().t()


@pytest.mark.parametrize("how", ["slice of a larger batch", "expanded", "misaligned", "misaligned rows", "transposed"])
@pytest.mark.parametrize("dtype", [BF16, F32, F64])
@pytest.mark.parametrize("size", [64, 6000])
def test_strides(place: Place, size: int, dtype: torch.dtype, how: str) -> None:
    case = Case(4, size, (dtype,) * 4, **METRICS["cosine"])
    inputs = case.inputs()
    inputs.terms[1] = strided(inputs.terms[1], how)
    check_loss(place, case, inputs)
    check_loss(place, replace(case, metric=L2, adaptive=None), inputs)
    inputs = inputs._replace(pred=strided(inputs.pred, how))
    check_loss(place, replace(case, batch=4), inputs)


@pytest.mark.parametrize("size", [2049, 2051, 4097, 20003])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_rest_of_a_single_sample_behind_the_vectors(place: Place, metric: str, size: int) -> None:
    check_loss(place, Case(1, size, (BF16,) * 3, **METRICS[metric]))
    check_loss(place, Case(1, size % 100, (BF16,) * 3, **METRICS[metric]))


def test_numbers_may_have_any_stride(place: Place) -> None:
    case = Case(6, 48, (F32,) * 4, pred_coeff=True, scale=True, weight=True)
    inputs = moved(case.inputs(), place.device)
    contiguous = loss_by(cuda, case, inputs)
    spaced = {
        name: torch.stack([values, values + 1], 1)[:, 0]
        for name, values in inputs.per_sample().items()
        if name != "scalars"
    }
    inputs = inputs._replace(scalars=inputs.scalars.t().contiguous().t(), **spaced)
    for one, other in zip(contiguous, loss_by(cuda, case, inputs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("batch", "size"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_tensors(place: Place, batch: int, size: int, reduction: str) -> None:
    case = Case(batch, size, (F32,) * 2, reduction=reduction)
    inputs = LossInputs(torch.zeros(batch, size), [torch.zeros(batch, size)], torch.ones(1, batch), *[None] * 4)
    loss, gradient, _ = loss_by(cuda, case, moved(inputs, place.device))
    want, *_ = loss_by(reference, case, inputs)
    assert torch.equal(loss.cpu().nan_to_num(nan=-7.0), want.nan_to_num(nan=-7.0))
    assert gradient.shape == (batch, size)
    empty, numbers = torch.zeros(batch, size, device=place.device), torch.ones(batch, device=place.device)
    cuda.scale_gradient_(empty, numbers.new_ones(()), numbers[:0])
    cuda.advance_(empty, empty, empty, numbers, numbers)
    assert cuda.interpolate(empty, empty, numbers[None], numbers[None], BF16).shape == (1, batch, size)
    cuda.ema_update_([empty], [empty], 0.5, [])
    cuda.ema_update_([], [], 0.5, [])


# The other operations


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("upstream_dtype", [F32, F64])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (5, 3), (3, 1024), (2, 40001), (300, 8)])
def test_scale_gradient(place: Place, batch: int, size: int, upstream_dtype: torch.dtype, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(batch * size)
    start = torch.randn(batch, size, generator=generator, dtype=F64).to(dtype)
    per_sample = torch.rand(batch, generator=generator) + 0.5
    tolerance = max(TOLERANCE[dtype] if dtype != F64 else 0, 1e-7 if upstream_dtype == F32 else 1e-14)
    for upstream in (torch.tensor(3.25), per_sample, torch.tensor(0.75).expand(batch)):
        gradient = place.empty((batch, size), dtype)
        gradient.copy_(start)
        scales = 2.0 ** torch.arange(-3, batch - 3).clamp(max=5) if dtype == F16 else torch.ones(0)
        cuda.scale_gradient_(gradient, *moved([upstream.to(upstream_dtype), scales], place.device))
        factor = upstream.double() / scales.double() if len(scales) else upstream.double()
        assert_close(gradient, start.double() * factor.reshape(-1, 1), tolerance)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_factor_one_changes_no_bit(place: Place, dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16 if dtype == BF16 else torch.int32)
    bits = bits if dtype == BF16 else bits << 16 | 1
    gradient = moved(bits.view(dtype).view(4, -1).clone(), place.device)
    none = torch.ones(0, device=place.device)
    cuda.scale_gradient_(gradient, torch.tensor(1.0, device=place.device), none)
    assert torch.equal(gradient.cpu().view(bits.dtype).reshape(-1), bits)
    upstream = torch.tensor([1.0, 2.0, 1.0, 1.0], device=place.device)
    cuda.scale_gradient_(gradient, upstream, none)
    changed = (gradient.cpu().view(bits.dtype) != bits.view(4, -1)).any(1)
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtypes", [(BF16,) * 3, (F32,) * 3, (BF16, F32, F16), (F32, F64, BF16), (F32, F32, F64)])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (300, 2), (3, 17), (4, 1024), (2, 40008), (1, 5003)])
@pytest.mark.parametrize("points", [1, 5])
def test_interpolate(place: Place, points: int, batch: int, size: int, dtypes: tuple[torch.dtype, ...]) -> None:
    generator = torch.Generator().manual_seed(size)
    x, z = (torch.randn(batch, size, generator=generator, dtype=F64).to(dtype) for dtype in dtypes[:2])
    alpha, gamma = torch.rand(2, points, batch, generator=generator)
    inputs = moved([x, z, alpha, gamma.double()], place.device)
    got = cuda.interpolate(*inputs, dtypes[2])
    assert got.dtype == dtypes[2]
    want = reference.interpolate(*moved([x, z, alpha, gamma], torch.device("cpu"), F64), F64)
    assert_close(got, want, max(TOLERANCE[dtypes[2]], 1e-12 if F64 in dtypes else 1e-6))


@pytest.mark.parametrize("dtypes", [(BF16,) * 3, (F16,) * 3, (F32, BF16, F32), (F64, F32, F64), (BF16, F32, F64)])
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (200, 2), (3, 33), (4, 1024), (2, 40008)])
def test_advance(place: Place, batch: int, size: int, dtypes: tuple[torch.dtype, ...]) -> None:
    generator = torch.Generator().manual_seed(size)
    x, velocity = (torch.randn(batch, size, generator=generator, dtype=F64).to(dtype) for dtype in dtypes[:2])
    t, r = torch.rand(2, batch, generator=generator)
    inputs = moved([x, velocity, t, r.double()], place.device)
    want = x.double() - (t.double() - r.double())[:, None] * velocity.double()
    tolerance = max(TOLERANCE[dtypes[2]], 1e-12 if F64 in dtypes else 1e-6)
    rows = place.empty((2 * batch, size), dtypes[2])
    cuda.advance_(rows[::2], *inputs)
    assert_close(rows[::2], want, tolerance)
    assert rows[1::2].isnan().all()
    columns = torch.full((size, batch), math.nan, dtype=dtypes[2], device=place.device).t()
    cuda.advance_(columns, *inputs)
    assert_close(columns, want, tolerance)
    if dtypes[0] == dtypes[2]:
        cuda.advance_(inputs[0], *inputs)
        assert_close(inputs[0], want, tolerance)


def ema_tensors(place: Place, sizes: list[int], dtypes: tuple[torch.dtype | None, ...]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(len(sizes))
    tensors = []
    for dtype in dtypes:
        tensors.append([place.empty((size,), dtype) for size in sizes] if dtype else [])
        for tensor in tensors[-1]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=F64))
    return tensors


EMA_SIZES = [1, 0, 3, 1024, 8191, 8192, 8193, 5, 20001, 0]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize(
    "dtypes",
    [(F32, BF16, BF16), (F32, F32, None), (F32, F16, F32), (F64, BF16, F16), (F32, F64, F64), (F64, F64, None)],
)
def test_ema(place: Place, dtypes: tuple[torch.dtype | None, ...], decay: float) -> None:
    averages, params, copies = ema_tensors(place, EMA_SIZES, dtypes)
    before = [average.cpu().double().clone() for average in averages]
    cuda.ema_update_(averages, params, decay, copies)
    for index, average in enumerate(averages):
        param = params[index].cpu()
        want = before[index] + (1 - decay) * (param.double() - before[index])
        assert_close(average, want, TOLERANCE[average.dtype] / 10)
        if decay == 0:
            assert torch.equal(average.cpu(), param.to(average.dtype))
        if decay == 1:
            assert torch.equal(average.cpu().double(), before[index])
        if copies:
            assert_close(copies[index], want, max(TOLERANCE[copies[index].dtype], 1e-7))


@pytest.mark.parametrize(("count", "launches"), [(1, 1), (97, 1), (800, 1), (801, 2), (1700, 3)])
def test_ema_of_many_tensors(place: Place, count: int, launches: int) -> None:
    averages, params, copies = ema_tensors(place, [1 + index % 7 for index in range(count)], (F32, BF16, BF16))
    want = 0.9 * torch.cat(averages).cpu().double() + 0.1 * torch.cat(params).cpu().double()
    before = place.library.emulated_launches() if place.library is not None else 0
    cuda.ema_update_(averages, params, 0.9, copies)
    if place.library is not None:
        assert place.library.emulated_launches() - before == launches
    assert_close(torch.cat(averages), want, 1e-6)
    assert_close(torch.cat(copies), want, TOLERANCE[BF16])


def test_ema_of_views(place: Place) -> None:
    """Sharded parameters are slices of one buffer, at any offset; a parameter may be transposed."""
    averages, params, copies = ema_tensors(place, [1000], (F32, BF16, BF16))
    want = 0.75 * averages[0].cpu().double() + 0.25 * params[0].cpu().double()
    parts = [averages[0].split([1, 998, 1]), params[0].split([1, 998, 1]), copies[0].split([1, 998, 1])]
    cuda.ema_update_(parts[0], parts[1], 0.75, parts[2])
    assert_close(averages[0], want, 1e-6)
    assert_close(copies[0], want, TOLERANCE[BF16])
    square, other = torch.zeros(30, 20, device=place.device), torch.randn(20, 30).to(place.device)
    cuda.ema_update_([square], [other.t()], 0.0, [])
    assert torch.equal(square, other.t())


# Graphs


def captured(step: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


@pytest.mark.parametrize("size", [48, 4096, 60000, 300000])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_graph_capture(place: Place, metric: str, size: int) -> None:
    if place.library is not None:
        pytest.skip(f"graphs need a GPU: {cuda.unavailable()}")
    case = Case(5, size, (BF16,) * 3, **METRICS[metric])
    inputs = moved(case.inputs(), place.device)
    results = {}

    def step() -> None:
        results["loss"], results["gradient"], scales = loss_by(cuda, case, inputs)
        cuda.scale_gradient_(results["gradient"], results["loss"].new_full((), 2.0), scales)

    graph = captured(step)
    fresh = replace(case, seed=7).inputs()
    inputs.pred.copy_(fresh.pred)
    for mine, new in zip(inputs.terms, fresh.terms, strict=True):
        mine.copy_(new)
    inputs.scalars.copy_(fresh.scalars)
    for _ in range(3):
        results["gradient"].fill_(math.nan)
        graph.replay()
        torch.cuda.synchronize()
        want_loss, want_gradient = expected(case, fresh)
        assert_close(results["loss"], want_loss, TOLERANCE[F32])
        assert_close(results["gradient"], 2 * want_gradient, TOLERANCE[BF16])


def test_losses_on_several_streams(place: Place) -> None:
    if place.library is not None:
        pytest.skip(f"streams need a GPU: {cuda.unavailable()}")
    cases = [Case(64, 3000, (F32,) * 3, seed=seed) for seed in range(8)]
    inputs = [moved(case.inputs(), place.device) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    losses = []
    for _ in range(20):
        losses = []
        for case, arguments, stream in zip(cases, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                losses.append(loss_by(cuda, case, arguments)[0])
    torch.cuda.synchronize()
    for case, arguments, loss in zip(cases, inputs, losses, strict=True):
        assert_close(loss, expected(case, moved(arguments, torch.device("cpu")))[0], TOLERANCE[F32])
