"""Builds and runs images where there is no container engine: Linux namespaces over this machine's own root.

A box is an overlay on `/`, so this machine is the base image; whatever is done in it is gone with it. A pod
has a network of its own with nothing but loopback, and runs commands of boxes on read-only roots.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.deploy.dockerfile import ROOT, Instruction, Stage, context_files

TOOLS = ("unshare", "nsenter", "setpriv", "chroot", "mount", "ip")
BASE_PATH = (
    f"{Path(sys._base_executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)


class NoBoxes(RuntimeError):
    """This machine lets us make no namespaces."""


@dataclass(frozen=True)
class Namespace:
    """Where commands run. `pid` is its first process; when that ends, all of its processes do."""

    pid: int
    kinds: tuple[str, ...]
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def command(self, words: Sequence[str]) -> list[str]:
        """The words, run in there."""
        return ["nsenter", "--target", str(self.pid), *(f"--{kind}" for kind in self.kinds), "--", *words]

    def run(self, *words: str) -> str:
        """Run to the end, as root; its output. Raises AssertionError with it when the command fails."""
        return _output(self.command(words))

    def start(self, command: Sequence[str], *, log: Path) -> "subprocess.Popen[bytes]":
        """Run what `command()` gave, and go on. It ends with the namespace at the latest."""
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self.started.append(process)
        return process


@dataclass
class Box:
    """A root directory inside a namespace, with what ENV, USER and WORKDIR have made of it."""

    namespace: Namespace
    path: str
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    user: str = "0:0"
    directory: str = "/"

    def command(
        self, words: Sequence[str], *, env: Mapping[str, str] | None = None, where: Namespace | None = None
    ) -> list[str]:
        """The words as a process of this image; without any capability unless it is root's."""
        uid, _, gid = self.user.partition(":")
        drop = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if uid != "0" else []
        user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *drop]
        assignments = [f"{name}={value}" for name, value in (self.environment | dict(env or {})).items()]
        inside = ["chroot", self.path, *user, "env", "-i", "-C", self.directory, *assignments, *words]
        return (where or self.namespace).command(inside)

    def run(self, *words: str, env: Mapping[str, str] | None = None, where: Namespace | None = None) -> str:
        """Run to the end; its output. Raises AssertionError with it when the command fails."""
        return _output(self.command(words, env=env, where=where))


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@contextlib.contextmanager
def builder() -> Iterator["Builder"]:
    """A place to build in. Raises NoBoxes where namespaces or overlays are not allowed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise NoBoxes(f"needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    with tempfile.TemporaryDirectory(prefix="secateur-boxes-", ignore_cleanup_errors=True) as directory:
        # The overlay's upper directory must not lie below its lower one: a file system of its own.
        setup = f"mount --make-rprivate /; mount -t tmpfs -o mode=0755 boxes {directory}"
        command = ["setpriv", "--pdeathsig", "KILL"]  # nothing is left when the tests are killed
        command += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with _holder(command, setup, ("mount", "pid")) as namespace:
            yield Builder(namespace, directory)


@contextlib.contextmanager
def pod(*boxes: Box) -> Iterator[Namespace]:
    """A network, processes and mounts of their own, in which these boxes run on read-only roots."""
    outside = boxes[0].namespace
    command = outside.command(["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child"])
    setup = "ip link set lo up"
    for box in boxes:
        setup += f"; mount -t proc proc {box.path}/proc; mount -o remount,bind,ro {box.path}"
    with _holder(command, setup, ("mount", "pid", "net")) as inside:
        yield inside


@contextlib.contextmanager
def _holder(command: Sequence[str], setup: str, kinds: tuple[str, ...]) -> Iterator[Namespace]:
    """The first process of new namespaces: it prepares them, says its pid outside, and waits."""
    script = f"set -e; {setup}; echo ready; exec sleep infinity"
    process = subprocess.Popen(
        [*command, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            _, said = process.communicate()
            raise NoBoxes(f"no namespaces here: {said.strip()}")
        namespace = Namespace(_innermost(process.pid), kinds)
        try:
            yield namespace
        finally:
            os.kill(namespace.pid, signal.SIGKILL)  # the kernel ends all others in there
            for started in namespace.started:
                started.wait()
    finally:
        process.communicate()


def _innermost(pid: int) -> int:
    """The last of the processes that unshare and nsenter have forked on the way to the shell."""
    processes = psutil.Process(pid).children(recursive=True)
    return processes[-1].pid if processes else pid


@dataclass
class Builder:
    """Carries out Dockerfiles."""

    namespace: Namespace
    directory: str
    boxes: dict[str, Box] = field(default_factory=dict)
    context: set[Path] = field(default_factory=context_files)

    def stage(self, stage: Stage, *, arguments: Mapping[str, str] | None = None) -> Box:
        """Build one stage."""
        box = self.box(stage.name or "final")
        for one in stage.instructions:
            self.carry_out(box, one, arguments=arguments)
        return box

    def box(self, name: str) -> Box:
        """A fresh root: this machine's, with an empty /tmp, in which others may pass through root's home."""
        top = f"{self.directory}/{name}"
        overlay = f"lowerdir=/,upperdir={top}/upper,workdir={top}/work"
        self.namespace.run(
            "sh",
            "-ec",
            f"mkdir -p {top}/upper {top}/work {top}/root; mount -t overlay -o {overlay} overlay {top}/root;"
            f"cd {top}/root; mount --rbind /dev dev; mount --rbind /sys sys; mount -t proc proc proc;"
            f"mount -t tmpfs tmp tmp; chmod 0711 root",
        )
        self.boxes[name] = Box(self.namespace, f"{top}/root")
        return self.boxes[name]

    def carry_out(self, box: Box, one: Instruction, *, arguments: Mapping[str, str] | None = None) -> None:
        """One instruction."""
        match one.name:
            case "ARG":
                given = {name: (arguments or {}).get(name, value) for name, value in one.pairs.items()}
                box.environment |= given
            case "ENV":
                path = box.environment["PATH"]
                box.environment |= {name: value.replace("$PATH", path) for name, value in one.pairs.items()}
            case "WORKDIR":
                box.directory = one.text
                self.namespace.run("mkdir", "-p", box.path + one.text)
            case "USER":
                box.user = one.text
            case "RUN":
                ours = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "REQUESTS_"))}
                box.run("sh", "-ec", one.text, env={"HOME": "/root", **ours})
            case "COPY":
                self._copy(box, one)
            case "LABEL" | "EXPOSE" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass
            case _:
                raise AssertionError(f"an instruction that is not understood: {one}")

    def _copy(self, box: Box, one: Instruction) -> None:
        *sources, target = one.words
        target = os.path.normpath(os.path.join(box.directory, target))
        if one.flags.get("from"):
            other = self.boxes[one.flags["from"]]
            self.namespace.run("mkdir", "-p", box.path + target)
            self.namespace.run("cp", "-aT", other.path + sources[0], box.path + target)
            return
        with tempfile.TemporaryDirectory() as staging:
            context = Path(staging)
            for file in self.context:
                (context / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, context / file)
            self.namespace.run("mkdir", "-p", box.path + target)
            for source in sources:
                assert (context / source).exists(), f"COPY {source}: .dockerignore leaves it out"
                content = f"{source}/." if (context / source).is_dir() else source
                self.namespace.run("cp", "-r", f"{context}/{content}", box.path + target)
