"""The rates of machines, from which times are estimated.

A rate of a GPU is what its data sheet states, times the share of it that was reached or is assumed:

    products        0.80   bfloat16 products of 8192 x 8192 on an H200: 769 to 798 of 989 TFLOP/s (measured)
    in a block      0.60   of those, in the forward passes of one sample of 2048 tokens (assumed)
    in training     0.40   of the data sheet's rate (assumed; reported for large models are 0.38 to 0.57)
    in solvers      0.25   of the float32 rate: Cholesky factors and updates column by column (assumed)
    bandwidth       0.90   a copy within an H200 moves 4.3 of 4.8 TB/s (measured)

The rates of a CPU were measured on two cores (docs/performance.md): products of 163 GFLOP/s a core in
float32, and 83 % of that in forward passes.
"""

from dataclasses import dataclass

GIB = 2**30
TERA = 1e12
PRODUCTS, IN_BLOCKS, IN_TRAINING, IN_SOLVERS, OF_BANDWIDTH = 0.80, 0.60, 0.40, 0.25, 0.90
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Machine:
    """The place of one worker. `memory`: bytes of a GPU, None on CPUs. Rates are units a second:

    `blocks32`, `blocks16`, `training32`, `training16`, `solving`: FLOP, in float32 and in 16 bits.
    `bandwidth`: bytes of the memory that computes. `upload`: bytes from the host's memory. `near`, `far`:
    bytes between workers of one node, and of several. `launch`: seconds until a kernel has started.
    `context`: bytes that the runtime takes on a GPU before there is any tensor.
    """

    name: str
    memory: int | None
    blocks32: float
    blocks16: float
    training32: float
    training16: float
    solving: float
    bandwidth: float
    upload: float
    near: float
    far: float
    launch: float
    context: int

    def blocks(self, width: int) -> float:
        """FLOP a second in forward passes, with numbers of `width` bytes."""
        return self.blocks32 if width == 4 else self.blocks16

    def training(self, width: int) -> float:
        """FLOP a second in training."""
        return self.training32 if width == 4 else self.training16

    def link(self, workers: int) -> float:
        """Bytes a second between workers. Beyond a node, its GPUs share what leads to the others."""
        return self.near if workers <= GPUS_PER_NODE else self.far


def _gpu(
    name: str, *, gib: int, sixteen: float, thirty_two: float, bandwidth: float, near: float, upload: float
) -> Machine:
    """A GPU by its data sheet: TFLOP/s without sparsity, TB/s of memory, GB/s in one direction."""
    return Machine(
        name=name,
        memory=gib * GIB,
        blocks16=sixteen * TERA * PRODUCTS * IN_BLOCKS,
        blocks32=thirty_two * TERA * PRODUCTS * IN_BLOCKS,
        training16=sixteen * TERA * IN_TRAINING,
        training32=thirty_two * TERA * IN_TRAINING,
        solving=thirty_two * TERA * IN_SOLVERS,
        bandwidth=bandwidth * TERA * OF_BANDWIDTH,
        upload=upload * 1e9 * OF_BANDWIDTH,
        near=near * 1e9 * OF_BANDWIDTH,
        far=25e9,  # half of an adapter of 400 Gbit/s for each GPU, as nodes with one adapter a GPU reach
        launch=5e-6,
        context=600 * 2**20,
    )


# NVIDIA's data sheets of L4, L40S, A100 SXM 80 GB and H200 SXM. float32 is that without TF32. L4 and L40S
# talk to each other through PCI Express.
GPUS = (
    _gpu("L4", gib=24, sixteen=121, thirty_two=30.3, bandwidth=0.3, near=32, upload=32),
    _gpu("L40S", gib=48, sixteen=362, thirty_two=91.6, bandwidth=0.864, near=32, upload=32),
    _gpu("A100", gib=80, sixteen=312, thirty_two=19.5, bandwidth=2.039, near=300, upload=32),
    _gpu("H200", gib=141, sixteen=989, thirty_two=67, bandwidth=4.8, near=450, upload=64),
)

CORE_PRODUCTS, CORE_IN_BLOCKS, CORE_BANDWIDTH = 163e9, 0.83, 10e9


def gpu_of(memory: int | None) -> Machine:
    """The GPU whose rates stand for one with `memory` bytes: the smallest known one that has as much, else
    the largest. Without a declared size, the largest."""
    fitting = [one for one in GPUS if memory is not None and one.memory is not None and one.memory >= memory]
    return fitting[0] if fitting else GPUS[-1]


def cpus(cores: int) -> Machine:
    """A worker with some CPU cores, which are taken to share nothing. 16 bits are no faster than 32."""
    forward = cores * CORE_PRODUCTS * CORE_IN_BLOCKS
    return Machine(
        name=f"{cores} CPU core{'s' if cores > 1 else ''}",
        memory=None,
        blocks16=forward,
        blocks32=forward,
        training16=forward,
        training32=forward,
        solving=forward / 2,
        bandwidth=cores * CORE_BANDWIDTH,
        upload=cores * CORE_BANDWIDTH,
        near=1e9,
        far=1e9,
        launch=5e-6,
        context=0,
    )
