"""A walk on a device without enough memory: the error must be ours."""

import torch

from gpu_sections.setting import Setting, llama, stored_model, tokens
from pipeline.blocks.local import LocalCrew
from pipeline.errors import OutOfMemory
from pipeline.methods.wanda import Wanda
from workers.classified import classified

LEFT = 512 << 20  # bytes; less than a block as wide as 7B's


def out_of_memory(setting: Setting) -> dict[str, object]:
    """The message of the error. Raises AssertionError if the walk ends well, or with another error."""
    setting.needs_gpu("an error of the GPU's memory")
    config = (
        llama(1024, 2048, 8, blocks=1, vocabulary=256) if setting.quick else llama(4096, 11008, 32, blocks=1)
    )
    with stored_model(config, setting) as (content, checkpoint):
        free, _ = torch.cuda.mem_get_info()
        taken = torch.empty(max(free - LEFT, 0), dtype=torch.uint8, device=setting.device)
        try:
            given = tokens(16, 2048, vocabulary=config.vocab_size)
            crew = LocalCrew(content, checkpoint, given, dtype=setting.dtype, device=setting.device)
            worker = crew.workers[0]
            worker.load(0)
            worker.measure(advance=True, needs=Wanda().needs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is named
            named = classified(error, stage="prune")
            assert isinstance(named, OutOfMemory), f"{type(named).__name__}: {named.message}"
            return {"taken_bytes": taken.nbytes, "error": named.message, "field": named.param}
    raise AssertionError(f"a walk ended well with {LEFT} bytes")
