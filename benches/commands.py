"""Benchmarks of whole commands: ours and the peer's interleaved, medians, one table.

Run by benches/run, which provides the binaries. Gates are ratios in one run, or counts.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MSB = ROOT / "target/release/msb"
MSB_LOCAL = ROOT / "target/local-driver/release/msb"
COMPOSE = ROOT / "target/peer/bin/docker-compose"
IMAGE = ROOT / "examples/quickstart/image"
PAIRS = 7
RUNNING = 50
PLANNED = 1000


class Table:
    """The rows that are printed, and whether every gate held."""

    def __init__(self):
        self.failed = False
        print(f"{'#':>3} {'figure':<44} {'ours':>14} {'peer':>14} {'ratio':>8}  gate")

    def row(self, number, figure, ours, peer="", ratio=None, gate="", held=True):
        self.failed |= not held
        shown = "" if ratio is None else f"{ratio:.3f}"
        verdict = f"{gate}  {'ok' if held else 'FAILED'}" if gate else ""
        print(f"{number:>3} {figure:<44} {ours:>14} {peer:>14} {shown:>8}  {verdict}", flush=True)


def ms(seconds):
    return f"{seconds * 1000:.1f} ms"


def timed(command, **kwargs):
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    took = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{command} failed with {done.returncode}:\n{done.stderr.decode()}")
    return took


def interleaved(ours, peer):
    """Runs both alternately, one warm-up each, and gives both medians."""
    ours(), peer()
    samples = [(ours(), peer()) for _ in range(PAIRS)]
    return tuple(statistics.median(column) for column in zip(*samples))


class Msb:
    """A project directory with its own state directory."""

    def __init__(self, directory, text, binary=MSB_LOCAL, driver="local"):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.binary = binary
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "MSB_HOME": str(self.directory / "home"),
            "MSB_DRIVER": driver,
        }
        self.write(text)

    def write(self, text):
        (self.directory / "Sandboxfile").write_text(text)

    def time(self, *words, prefix=()):
        command = [*prefix, str(self.binary), *words]
        return timed(command, cwd=self.directory, env=self.env)

    def output(self, *words):
        return subprocess.run(
            [str(self.binary), *words], cwd=self.directory, env=self.env, check=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ).stdout.decode()

    def syscalls(self, *words, trace):
        """How often each system call of `trace` was made by the command; supervisors outlive it."""
        log = self.directory / "strace.log"
        prefix = ["strace", "-f", "-b", "execve", "-qq", "-e", f"trace={trace}", "-o", str(log)]
        self.time(*words, prefix=prefix)
        calls = re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)\(", log.read_text(), re.M)
        return {name: calls.count(name) for name in sorted(set(calls))}

    def instructions(self, *words):
        command = [
            "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
            str(self.binary), *words,
        ]
        done = subprocess.run(command, cwd=self.directory, env=self.env, stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, check=True)
        return int(re.search(rb"Collected : (\d+)", done.stderr)[1])


def sandboxes(count, kind, command, edge=10):
    """A Sandboxfile of `count` sandboxes in layers of `edge`."""
    lines = ['name = "bench"', "[templates.base]", f'image = "{IMAGE}"', f'kind = "{kind}"',
             f"cmd = {json.dumps(command)}"]
    for i in range(count):
        lines += [f"[sandbox.s{i}]", 'extends = "base"', f'env = {{ A = "1", B = "two", C = "{i}" }}']
        if i >= edge:
            condition = "completed" if kind == "job" else "started"
            lines.append(f'depends_on = {{ s{i - edge} = "{condition}" }}')
    return "\n".join(lines) + "\n"


def services(count, command, edge=10):
    """The same as a Compose file."""
    limits = "{nofile: {soft: 1024, hard: 1024}, nproc: {soft: 1024, hard: 1024}}"
    lines = ["services:"]
    for i in range(count):
        lines += [f"  s{i}:", "    image: localhost/msb-bench:latest", "    network_mode: none",
                  f"    ulimits: {limits}", f"    command: {json.dumps(command)}",
                  f"    environment: {{A: '1', B: two, C: '{i}'}}"]
        if i >= edge:
            lines.append(f"    depends_on: [s{i - edge}]")
    return "\n".join(lines) + "\n"


class Compose:
    """Docker Compose on podman's API, in a directory of its own."""

    def __init__(self, directory, text):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        (self.directory / "compose.yaml").write_text(text)
        self.env = dict(os.environ, DOCKER_HOST=f"unix://{self.directory}/podman.sock")

    def time(self, *words):
        return timed([str(COMPOSE), *words], cwd=self.directory, env=self.env)

    @contextlib.contextmanager
    def engine(self):
        archive = subprocess.run(["tar", "-C", IMAGE, "-c", "."], check=True, stdout=subprocess.PIPE)
        loaded = subprocess.run(["podman", "load", "-q"], check=True, stdout=subprocess.PIPE,
                                input=archive.stdout)
        name = loaded.stdout.split()[-1].decode()
        subprocess.run(["podman", "tag", name, "localhost/msb-bench:latest"], check=True)
        service = subprocess.Popen(
            ["podman", "--runtime", "runc", "system", "service", "-t", "0", self.env["DOCKER_HOST"]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not (self.directory / "podman.sock").exists():
                time.sleep(0.05)
            yield self
        finally:
            subprocess.run([str(COMPOSE), "down", "-t", "0"], cwd=self.directory, env=self.env,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            service.terminate()
            service.wait()


def planned(table, directory):
    """Rows 1 and 5: a thousand completed jobs, then a plan that has nothing to do."""
    ours = Msb(directory / "planned", sandboxes(PLANNED, "job", ["/bin/busybox", "true"]))
    peer = Compose(directory / "planned-peer", services(PLANNED, ["/bin/busybox", "true"]))
    each = ours.time("up", "-d", "--wait") / PLANNED
    table.row(5, f"up of {PLANNED} jobs, per sandbox", ms(each))
    a, b = interleaved(lambda: ours.time("plan", "--detailed-exitcode"),
                       lambda: peer.time("config", "-q"))
    table.row(1, f"no-op plan of {PLANNED} ÷ compose config", ms(a), ms(b), a / b, "≤ 0.05", a / b <= 0.05)
    table.row(9, "all images cached: network calls in a plan",
              str(sum(ours.syscalls("plan", trace="connect").values())), gate="0")
    ours.time("down")


def running(table, directory):
    """Rows 3, 4 and 7: fifty running sandboxes."""
    command = ["/bin/busybox", "sleep", "100000"]
    text = sandboxes(RUNNING, "service", command)
    ours = Msb(directory / "running", text)
    peer = Compose(directory / "running-peer", services(RUNNING, command))
    syncs = ours.syscalls("up", "-d", trace="fsync,fdatasync")
    commits = sum(syncs.values()) / RUNNING
    try:
        table.row(7, "syncs per sandbox, create and start", f"{commits:.1f}", gate="≤ 3 each", held=commits <= 6)
        with peer.engine():
            peer.time("up", "-d")
            a, b = interleaved(lambda: ours.time("up", "-d"), lambda: peer.time("up", "-d"))
            table.row(3, f"no-op up of {RUNNING} running", ms(a), ms(b), a / b, "≤ 0.05", a / b <= 0.05)
            calls = ours.syscalls("up", "-d", trace="fsync,fdatasync,clone,clone3,fork,vfork,socket")
            calls = {k: v for k, v in calls.items() if k != "clone3"} | {"threads": calls.get("clone3", 0)}
            bad = sum(v for k, v in calls.items() if k != "threads")
            table.row(3, "no-op up: syncs + forks + sockets", str(bad), gate="0", held=bad == 0)

            turn = [0]

            def edit():
                turn[0] += 1
                ours.write(text.replace('C = "7"', f'C = "edited {turn[0]}"'))
                return ours.time("up", "-d")

            def edit_peer():
                path = peer.directory / "compose.yaml"
                path.write_text(services(RUNNING, command).replace("C: '7'", f"C: 'edited {turn[0]}'"))
                return peer.time("up", "-d", "-t", "0")

            a, b = interleaved(edit, edit_peer)
            table.row(4, f"up, 1 of {RUNNING} changed", ms(a), ms(b), a / b)
    finally:
        ours.time("down", "-t", "0s")


def small(table, directory):
    """Row 20: instructions of the smallest commands."""
    ours = Msb(directory / "small", 'name = "small"\n', binary=MSB, driver="auto")
    for words, limit in ((["--version"], 3), (["ls"], 6)):
        count = ours.instructions(*words) / 1e6
        table.row(20, f"msb {words[0]}, M instructions", f"{count:.1f}", gate=f"≤ {limit}", held=count <= limit)


def delegated(table, number, figure, bench):
    """Rows that a bench target measures and prints itself."""
    done = subprocess.run(["cargo", "bench", "--locked", "--features", "test-support",
                           "--target-dir", "target/local-driver", "--bench", bench],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in done.stdout.decode().splitlines():
        print(f"    {line}")
    table.row(number, figure, "", gate=f"cargo bench --bench {bench}", held=done.returncode == 0)


def main():
    table = Table()
    with tempfile.TemporaryDirectory(prefix="msb-bench-") as name:
        directory = pathlib.Path(name)
        small(table, directory)
        planned(table, directory)
        running(table, directory)
        delegated(table, "1 2 6"[:3], "instruction gates, growth, schedule", "gates")
        delegated(table, 10, "spawn → ready ÷ bare kernel boot", "boot")
    sys.exit(table.failed)


if __name__ == "__main__":
    main()
