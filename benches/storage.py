"""Benchmarks of images and of files in guests: rows 8, 9 and 15 of the performance table.

Run by benches/storage, which provides the programs. Everybody pulls the same image from the same
registry on loopback into a new file system of their own; runs are interleaved, medians count. A peer
that is not there is said to be missing, never to be slower.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MSB = pathlib.Path(os.environ.get("MSB", ROOT / "target/release/msb"))
MSB_LOCAL = pathlib.Path(os.environ.get("MSB_LOCAL", ROOT / "target/local-driver/release/msb"))
FLOOR = os.environ.get("FLOOR")
REFERENCE = pathlib.Path(
    os.environ.get("REFERENCE", ROOT / "target/peer/reference/microsandbox/_bundled/bin/msb")
)
PAIRS = int(os.environ.get("PAIRS", "5"))
# Unpacked size of the image that is pulled, and of the file system that it is pulled to, in bytes.
IMAGE_BYTES = 307 << 20
DISK_BYTES = 6 << 30
SMALL_FILES = 3919


class Table:
    """The rows that are printed, and whether every gate held."""

    def __init__(self):
        self.failed = False
        print(f"{'#':>3} {'figure':<52} {'ours':>12} {'peer':>12} {'ratio':>7}  gate", flush=True)

    def row(self, number, figure, ours, peer="", ratio=None, limit=None):
        held = limit is None or ratio is None or ratio <= limit
        self.failed |= not held
        shown = "" if ratio is None else f"{ratio:.2f}"
        verdict = "" if limit is None or ratio is None else f"<= {limit}  {'ok' if held else 'FAILED'}"
        print(f"{number:>3} {figure:<52} {ours:>12} {peer:>12} {shown:>7}  {verdict}", flush=True)


def seconds(value):
    return f"{value:.3f} s"


def run(command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)
    if done.returncode != 0:
        sys.exit(f"{command} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


def timed(command, **kwargs):
    start = time.perf_counter()
    run(command, **kwargs)
    return time.perf_counter() - start


def processor_time():
    """Of all programs that were waited for, in seconds."""
    used_up = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used_up.ru_utime + used_up.ru_stime


def content():
    """Files of this machine's programs, together as large as the image is to be."""
    total = 0
    for top in ("/usr/bin", "/usr/lib", "/usr/share", "/usr/sbin"):
        for path in sorted(pathlib.Path(top).rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 16 << 20:
                continue
            total += path.stat().st_size
            if total > IMAGE_BYTES:
                return
            yield path
    sys.exit("this machine has too few files for the image")


def layer(paths):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in paths:
            archive.add(path, recursive=False)
    plain = out.getvalue()
    return plain, gzip.compress(plain, 6, mtime=0)


def layout(directory, parts):
    """An image layout with one image of these layers."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    oci = "application/vnd.oci.image"
    layers = [put(packed) | {"mediaType": f"{oci}.layer.v1.tar+gzip"} for _, packed in parts]
    config = {
        "os": "linux",
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}" for plain, _ in parts],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": put(json.dumps(config).encode()) | {"mediaType": f"{oci}.config.v1+json"},
        "layers": layers,
    }
    top = put(json.dumps(manifest).encode()) | {"mediaType": f"{oci}.manifest.v1+json"}
    top["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return [blobs / entry["digest"][7:] for entry in layers]


@contextlib.contextmanager
def registry(directory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {directory}/store }} }}\n"
        f"http: {{ addr: 127.0.0.1:{port} }}\n"
    )
    server = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def disk(directory):
    """A new ext4, mounted by loop."""
    image, at = directory / "disk.ext4", directory / "disk"
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0", image])
    run(["mount", "-o", "loop", image, at])
    try:
        yield at
    finally:
        run(["umount", at])


def pullers(at, address, project):
    """Who pulls: a name, and what pulls an image into an empty place, in seconds."""

    def fresh(name):
        home = at / name
        subprocess.run(["rm", "-rf", home], check=True)
        home.mkdir()
        os.sync()
        return home

    def ours(name):
        env = os.environ | {"MSB_HOME": str(fresh("ours"))}
        (project / "Sandboxfile").write_text(
            f'[registry."{address}"]\ninsecure = true\n[sandbox.a]\nimage = "{address}/{name}"\n'
        )
        return timed([MSB, "pull"], env=env, cwd=project)

    def reference(name):
        home = fresh("reference")
        env = os.environ | {"HOME": str(home), "MSB_HOME": str(home / "h")}
        return timed([REFERENCE, "pull", "--insecure", "-q", f"{address}/{name}"], env=env)

    def podman(name):
        home = fresh("podman")
        command = ["podman", "--root", home / "root", "--runroot", home / "run", "pull", "-q"]
        return timed([*command, "--tls-verify=false", f"{address}/{name}"])

    found = {"ours": ours}
    for name, program, pull in (
        ("reference", REFERENCE, reference),
        ("podman", shutil.which("podman"), podman),
    ):
        if program and pathlib.Path(program).exists():
            found[name] = pull
        else:
            print(f"    {name} is missing: no figure of it", flush=True)
    return found


def pulls(table, directory):
    paths = list(content())
    images = {"one": 1, "four": 4}
    blobs = {}
    packed = directory / "images"
    for name, count in images.items():
        parts = [layer(paths[first::count]) for first in range(count)]
        sizes = [sum(len(part[which]) for part in parts) >> 20 for which in (0, 1)]
        print(f"    image {name}: {count} layers, {sizes[1]} MiB, {sizes[0]} unpacked", flush=True)
        blobs[name] = layout(packed / name, parts)
        del parts
    project = directory / "project"
    project.mkdir()
    with registry(directory) as address, disk(directory) as at:
        for name in images:
            source = f"oci:{packed / name}:latest"
            run(["skopeo", "copy", "-q", "--dest-tls-verify=false", source,
                 f"docker://{address}/{name}:latest"])
        found = pullers(at, address, project)
        for name in images:
            if FLOOR:
                found["floor"] = lambda name: float(run([FLOOR, *blobs[name]]))
            for pull in found.values():
                pull(name)
            taken = {who: [] for who in found}
            busy = {who: [] for who in found}
            for _ in range(PAIRS):
                for who, pull in found.items():
                    before = processor_time()
                    taken[who].append(pull(name))
                    busy[who].append(processor_time() - before)
            medians = {who: statistics.median(all_of_it) for who, all_of_it in taken.items()}
            mine = medians.pop("ours")
            for who, other in medians.items():
                limit = {"one": 1.0, "four": 0.9}[name] if who == "reference" else None
                figure = f"pull and build, {images[name]} layer(s), against {who}"
                table.row(8, figure, seconds(mine), seconds(other), mine / other, limit)
                own, theirs = (statistics.median(busy[one]) for one in ("ours", who))
                table.row(8, "… processor time", seconds(own), seconds(theirs), own / theirs)


def used(directory):
    return sum(
        path.lstat().st_blocks * 512 for path in pathlib.Path(directory).rglob("*")
    )


def second_sandbox(table, directory):
    """A further sandbox of an image that is here, with the agent as an ordinary process."""
    project, home = directory / "second", directory / "h"
    layout(project / "image", [layer(content())])
    env = os.environ | {"MSB_HOME": str(home), "MSB_DRIVER": "local"}
    declared = 'name = "second"\n[defaults]\nimage = "./image"\ncmd = ["sleep", "1000"]\n'

    def up(names):
        blocks = "".join(f"[sandbox.{name}]\n" for name in names)
        (project / "Sandboxfile").write_text(declared + blocks)
        command = [MSB_LOCAL, "up", "-d", "--no-deps", names[-1]]
        return timed(command, env=env, cwd=project)

    def start_again(name):
        run([MSB_LOCAL, "stop", name], env=env, cwd=project)
        return timed([MSB_LOCAL, "start", name], env=env, cwd=project)

    names = ["a"]
    first = up(names)
    taken, grown, started = [], [], []
    try:
        for number in range(PAIRS + 1):
            names.append(f"b{number}")
            before = used(home)
            taken.append(up(names))
            grown.append(used(home) - before)
            started.append(start_again(names[-1]))
    finally:
        run([MSB_LOCAL, "down", "-y"], env=env, cwd=project)
    each, bytes_ = statistics.median(taken[1:]), statistics.median(grown[1:])
    start = statistics.median(started[1:])
    made = max(each - start, 0)
    table.row(9, "a second sandbox of one image: `up`, against `start`", seconds(each), seconds(start))
    table.row(9, "… the difference, which is making it", seconds(made), "0.020 s", made / 0.020, 1.0)
    table.row(9, "… and its disk", f"{bytes_ / 1024:.0f} KiB", "1024 KiB", bytes_ / (1 << 20), 1.0)
    table.row(9, "… and the first, which makes the image", seconds(first))


GUEST = r"""
now() { read up idle < /proc/uptime; echo ${up%.*}${up#*.}; }
cold() { sync; echo 3 > /proc/sys/vm/drop_caches; }
took() { echo "$1 $(($3 - $2))"; }
read_all() { find "$1" -type f -exec cat {} + > /dev/null; }
fill() { dd if=/dev/zero of="$1/big" bs=1M count=64 conv=fsync 2> /dev/null; }
small() { mkdir "$1/small"; i=0; while [ $i -lt 500 ]; do echo $i > "$1/small/$i"; i=$((i + 1)); done; sync; }
mkdir -p /raw/image /raw/upper /raw/volume
for disk in /sys/block/vd*; do
    name=${disk##*/}
    case $(cat $disk/serial) in
        image) mount -t erofs -o ro /dev/$name /raw/image ;;
        upper) mount -t ext4 /dev/$name /raw/upper ;;
        volume*) mount -t ext4 /dev/$name /raw/volume ;;
    esac
done
mkdir -p /raw/upper/bench /root/bench /raw/volume/bench /volume/bench2
[ -d /volume/data ] || cp -r /data /volume/data
for round in 1 2 3; do
    for place in "image /raw/image/data" "rootfs /data" "rawvolume /raw/volume/data" "volume /volume/data" "bind /bind"; do
        set -- $place
        [ -d $2 ] || continue
        cold; a=$(now); read_all $2; b=$(now); took "cold.$1" $a $b
        a=$(now); for i in 1 2 3; do read_all $2; done; b=$(now); took "warm.$1" $a $b
    done
    for place in "rawupper /raw/upper/bench" "rootfs /root/bench" "rawvolume /raw/volume/bench" "volume /volume/bench2" "bind /bind"; do
        set -- $place
        [ -d $2 ] || continue
        cold; a=$(now); fill $2; b=$(now); took "write.$1" $a $b
        cold; a=$(now); dd if=$2/big of=/dev/null bs=1M 2> /dev/null; b=$(now); took "read.$1" $a $b
        a=$(now); small $2; b=$(now); took "create.$1" $a $b
        rm -rf $2/big $2/small
    done
done
"""


def guest_files(table, directory):
    """Files in one guest: through the overlay, a volume and a bind, against the disks under them."""
    project, home = directory / "guest", directory / "gh"
    root = project / "root"
    (root / "bin").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "root").mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in re.findall(r"[a-z]+", run(["/bin/busybox", "--list"])):
        with contextlib.suppress(FileExistsError):
            (root / "bin" / name).symlink_to("busybox")
    for number in range(SMALL_FILES):
        place = root / "data" / str(number % 40)
        place.mkdir(exist_ok=True)
        (place / str(number)).write_bytes(os.urandom(500 + number * 37 % 9000))
    shutil.copytree(root / "data", project / "bind")
    (root / "bench.sh").write_text(GUEST)
    (project / "Sandboxfile").write_text(
        'name = "guest"\n[sandbox.a]\nimage = "./root"\nmemory = "1GiB"\ncmd = ["sleep", "100000"]\n'
        '[sandbox.a.volumes]\n"/volume" = { named = "v" }\n"/bind" = { bind = "./bind" }\n'
        '[volume.v]\nquota = "1GiB"\n'
    )
    driver = os.environ.get("MSB_DRIVER", "qemu")
    env = os.environ | {"MSB_HOME": str(home), "MSB_DRIVER": driver}
    run([MSB, "setup"], env=env)
    run([MSB, "up", "-d", "--wait"], env=env, cwd=project)
    try:
        out = run([MSB, "exec", "a", "sh", "/bench.sh"], env=env, cwd=project)
    finally:
        run([MSB, "down", "-v", "-y"], env=env, cwd=project)
    taken = {}
    for line in out.splitlines():
        name, hundredths = line.split()
        taken.setdefault(name, []).append(int(hundredths) / 100)
    medians = {name: statistics.median(values) for name, values in taken.items()}

    def against(figure, ours, raw, limit=None):
        if ours in medians and medians.get(raw):
            mine, other = medians[ours], medians[raw]
            table.row(15, f"{figure} ({driver})", seconds(mine), seconds(other), mine / other, limit)

    files = f"{SMALL_FILES} small files"
    against(f"{files}, rootfs, cold, against EROFS", "cold.rootfs", "cold.image", 1.3)
    against(f"{files}, rootfs, warm, against EROFS", "warm.rootfs", "warm.image", 1.3)
    against("64 MiB written, rootfs, against ext4", "write.rootfs", "write.rawupper")
    against("64 MiB read, rootfs, against ext4", "read.rootfs", "read.rawupper")
    against("500 files made, rootfs, against ext4", "create.rootfs", "create.rawupper")
    for place in ("volume", "bind"):
        raw = "rawvolume" if f"cold.rawvolume" in medians else "image"
        against(f"{files}, {place}, cold, against raw", f"cold.{place}", f"cold.{raw}")
        against(f"{files}, {place}, warm, against raw", f"warm.{place}", f"warm.{raw}")
        raw = "rawvolume" if f"write.rawvolume" in medians else "rawupper"
        against(f"64 MiB written, {place}, against ext4", f"write.{place}", f"write.{raw}")
        against(f"64 MiB read, {place}, against ext4", f"read.{place}", f"read.{raw}")
        against(f"500 files made, {place}, against ext4", f"create.{place}", f"create.{raw}")


def main():
    table = Table()
    rows = {"8": pulls, "9": second_sandbox, "15": guest_files}
    with tempfile.TemporaryDirectory(prefix="msb-storage-", dir=os.environ.get("TMPDIR")) as directory:
        for number in sys.argv[1:] or rows:
            rows[number](table, pathlib.Path(directory))
    sys.exit(table.failed)


if __name__ == "__main__":
    main()
