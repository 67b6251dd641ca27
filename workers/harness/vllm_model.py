"""A checkpoint in vLLM as lm-eval's model: tokens are cut as for transformers, and vLLM answers."""

import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.errors import InvalidSpec, TargetFailed, WorkerLost
from workers.harness.model import TellingModel, Tokens

ROOT = str(Path(__file__).resolve().parents[2])
CHILD = "workers.harness.vllm_child"
AT_ONCE = 256  # requests that vLLM gets together; it orders them itself
SAID = 2000  # last characters of standard error that an error shows
TAKEN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # of a task's generation settings

T = TypeVar("T")


class VllmModel(TellingModel):
    """lm-eval's model for transformers, of which tokenizer and rules for cutting are used, and no weights.

    vLLM needs one position for a token that it generates, and reads the last token of an answer too, so
    `max_length` is two less than the model's positions.
    """

    def __init__(
        self,
        directory: str,
        *,
        dtype: str,
        gpus: int,
        threads: int,
        batch_size: int,
        bos: bool,
        python: str,
        child: str = CHILD,
    ) -> None:
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
        options = {"add_bos_token": True} if bos else {}
        super().__init__(pretrained=shape, tokenizer=directory, batch_size=batch_size, **options)
        positions = self.max_length
        self._max_length = positions - 2
        self._device = torch.device("cuda" if gpus else "cpu")
        self._vllm = VllmProcess(python or sys.executable, child, threads=threads, gpus=gpus)
        opening = {
            "directory": directory,
            "dtype": dtype,
            "gpus": gpus,
            "positions": positions,
            "sequences": batch_size,
        }
        self.engine = f"vllm {self._vllm.ask({'open': opening})['version']}"

    def close(self) -> None:
        """End vLLM's process."""
        self._vllm.close()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See LM."""
        self._hook.expect(len(requests))
        texts: list[str] = []
        for some in _chunks([request.args for request in requests]):
            prepared = [self._prepared(context, settings) for context, settings in some]
            asked = [{"tokens": tokens, "sampling": sampling} for tokens, sampling, _ in prepared]
            found = self._vllm.ask({"generate": asked})["generated"]
            for (context, settings), (_, _, stops), answer in zip(some, prepared, found, strict=True):
                text = postprocess_generated_text(
                    generation=self.tok_decode(answer), stop=stops, think_end_token=None
                )
                texts.append(text)
                self.cache_hook.add_partial("generate_until", (context, settings), text)
        return texts

    def _prepared(
        self, context: str, settings: Mapping[str, Any]
    ) -> tuple[list[int], dict[str, Any], list[str]]:
        """The tokens of a prompt, vLLM's settings for its answer, and the texts that end it. Raises
        InvalidSpec for settings of the task that vLLM would not follow."""
        given = normalize_gen_kwargs(copy.deepcopy(dict(settings)), self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops = [text for text in handle_stop_sequences(given.pop("until", None), eos) if text]
        room = given.pop("max_gen_toks")
        sampled = given.pop("do_sample", False)
        unknown = sorted(given.keys() - {*TAKEN})
        if unknown:
            raise InvalidSpec(
                f"the task generates with {', '.join(unknown)}, which evaluation.tasks.engine vllm does not "
                f"take; use engine transformers",
                "spec.evaluation.tasks.engine",
            )
        sampling: dict[str, Any] = {
            "max_tokens": room,
            "stop": stops,
            "seed": 0,
            **(given if sampled else {}),
        }
        if not sampled:
            sampling["temperature"] = 0
        return self.tok_encode(context, left_truncate_len=self.max_length - room), sampling, stops

    def _loglikelihood_tokens(self, requests: list[Tokens], **options: Any) -> list[tuple[float, bool]]:
        self._check_answers(requests)
        scores: list[tuple[float, bool]] = []
        for some in _chunks(requests):
            asked = [
                {"tokens": [*question, *answer][-(self.max_length + 1) :], "answer": len(answer)}
                for _, question, answer in some
            ]
            found = self._vllm.ask({"score": asked})["scored"]
            for (texts, _, _), (likelihood, greedy) in zip(some, found, strict=True):
                scores.append((float(likelihood), bool(greedy)))
                if texts is not None:  # windows of one text are counted together
                    self.cache_hook.add_partial("loglikelihood", texts, scores[-1])
        return scores


class VllmProcess:
    """The process that holds the model; see vllm_child.py."""

    def __init__(self, python: str, child: str, *, threads: int, gpus: int) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        environment = {
            **os.environ,
            "PYTHONPATH": ROOT,
            "PYTHONSAFEPATH": "1",  # nothing in the working directory is taken for a package
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        try:
            self._process = subprocess.Popen(
                [python, "-m", child],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
                text=True,
            )
        except FileNotFoundError as error:
            self._said.close()
            raise TargetFailed(f"there is no {python}; correct SECATEUR_VLLM_PYTHON") from error

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """The answer to one request. Raises WorkerLost for a process that was killed, TargetFailed for one
        that broke, with its last words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip()[-SAID:]
            self.close()
            failure = WorkerLost if code < 0 else TargetFailed
            raise failure(f"vLLM ended with exit code {code}: {said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
