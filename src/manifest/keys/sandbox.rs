//! Keys of a sandbox.

use super::Merge::{Append, Dependencies, Ports, Union};
use super::Rule::{ExactlyOne, Needs, Required};
use super::resources::{ENV_FILES, NETWORK};
use super::{Key, TableDef, Ty, key, kinds};

const TEXT_ITEM: Ty = Ty::Text(&kinds::ANY);
const COMMAND: Ty = Ty::List(&TEXT_ITEM, 1);
const WORDS: Ty = Ty::List(&TEXT_ITEM, 0);
const NAMES: Ty = Ty::List(&Ty::Text(&kinds::NAME), 0);
const GUEST_PATH: Ty = Ty::Text(&kinds::GUEST_PATH);
const HOST_PATH: Ty = Ty::Text(&kinds::HOST_PATH);
const SIZE: Ty = Ty::Text(&kinds::SIZE);
const DURATION: Ty = Ty::Text(&kinds::DURATION);
const MODE: Ty = Ty::Text(&kinds::MODE);
const CONDITION: Ty = Ty::Word(&["started", "healthy", "completed"]);
const PORT_NUMBER: Ty = Ty::Int(1, 65535);

/// How many of [`SANDBOX`]'s keys, from the start, make no sense in `[defaults]`.
const NOT_IN_DEFAULTS: usize = 3;

static KEYS: [Key; 36] = [
    key("extends", Ty::Text(&kinds::NAME), "", "The template that it starts from; see `[templates]`."),
    key(
        "unset",
        Ty::List(&Ty::Text(&kinds::UNSET), 0),
        "",
        "Keys (`\"ports\"`, `\"env.DEBUG\"`) that are dropped from what it would inherit from defaults, its template or an earlier file.",
    )
    .merge(Union),
    key(
        "profiles",
        NAMES,
        "",
        "Profiles that select it; without any it is always selected.",
    )
    .merge(Union),
    key(
        "image",
        Ty::Any(&[Ty::Text(&kinds::IMAGE), Ty::Table(&IMAGE)]),
        "",
        "What it boots: an OCI reference, a directory (`\"./rootfs\"`, or an OCI layout `\"./layout#tag\"`), an archive (`\"./image.tar\"`) or a disk image (`\"./disk.qcow2\"`). Required, here or in what it inherits.",
    ),
    key(
        "kind",
        Ty::Word(&["service", "job"]),
        "`\"service\"`",
        "A service runs until it is stopped; a job runs to completion, and exit code 0 is success.",
    ),
    key(
        "pull_policy",
        Ty::Word(&["always", "if-missing", "never"]),
        "`\"if-missing\"`",
        "When the registry is asked for the image.",
    ),
    key("memory", SIZE, "`\"512MiB\"`", "Memory of the guest; at least 64MiB."),
    key("cpus", Ty::Int(1, 255), "1", "Virtual processors."),
    key(
        "env",
        Ty::Map(&kinds::ENV_NAME, &TEXT_ITEM),
        "",
        "Environment of the workload and of `msb exec`, over the image's and over `env_file`.",
    ),
    key("env_file", ENV_FILES, "", "Env files whose variables become part of `env`; a later file wins.").merge(Append),
    key(
        "entrypoint",
        WORDS,
        "the image's",
        "Replaces the image's entrypoint, and drops the image's command.",
    ),
    key("cmd", WORDS, "the image's", "Replaces the image's command."),
    key("workdir", GUEST_PATH, "the image's, else `/`", "Working directory."),
    key(
        "user",
        Ty::Text(&kinds::USER),
        "the image's, else root",
        "User of the workload and of `msb exec`: a name or number, with `:group` if need be.",
    ),
    key("shell", GUEST_PATH, "`\"/bin/sh\"`", "Shell of `msb shell`, of shell health checks and of scripts without a `#!` line."),
    key("hostname", Ty::Text(&kinds::HOSTNAME), "the sandbox's name", "Host name in the guest."),
    key("labels", Ty::Map(&kinds::NOT_EMPTY, &TEXT_ITEM), "", "Labels, for filters."),
    key(
        "scripts",
        Ty::Map(&kinds::SCRIPT_NAME, &Ty::Text(&kinds::CONTENT)),
        "",
        "Named scripts, executable and on `PATH` in the guest: `msb run SANDBOX NAME`. One without a `#!` line is for the sandbox's shell; 512 KiB in all.",
    ),
    key("volumes", Ty::Map(&kinds::GUEST_PATH, &Ty::Table(&MOUNT)), "", "Mounts by guest path; one may lie in another."),
    key("patches", Ty::List(&Ty::Table(&PATCH), 0), "", "Changes to the image before boot, in order.").merge(Append),
    key("healthcheck", Ty::Table(&HEALTHCHECK), "", "How to find out whether it is healthy."),
    key(
        "restart",
        Ty::Text(&kinds::RESTART),
        "`\"no\"`",
        "What happens when the workload ends: `\"no\"`, `\"always\"`, `\"on-failure\"`, `\"on-failure:N\"` (at most N times in a row) or `\"unless-stopped\"`.",
    ),
    key("stop_signal", Ty::Text(&kinds::SIGNAL), "the image's, else `\"SIGTERM\"`", "Sent to the workload to stop it."),
    key("stop_grace_period", DURATION, "`\"10s\"`", "Time from the stop signal to SIGKILL."),
    key("max_duration", DURATION, "", "The longest it may run, restarts by its policy included; then it is stopped."),
    key("idle_timeout", DURATION, "", "The longest it may run with no command, copy or `msb attach` in it; then it is stopped."),
    key("disk", SIZE, "`\"8GiB\"`", "Size of the writable disk (sparse); at least 16MiB."),
    key(
        "log_level",
        Ty::Word(&["off", "error", "warn", "info", "debug", "trace"]),
        "`\"info\"`",
        "Verbosity of the supervisor's log.",
    ),
    key(
        "depends_on",
        Ty::Any(&[NAMES, Ty::Map(&kinds::NAME, &Ty::Any(&[CONDITION, Ty::Table(&DEPENDENCY)]))]),
        "",
        "Sandboxes that come first: a list (`started`), or a table of conditions `\"started\"`, `\"healthy\"`, `\"completed\"`.",
    )
    .merge(Dependencies),
    key(
        "ports",
        Ty::List(&Ty::Any(&[Ty::Text(&kinds::PORT_MAPPING), Ty::Table(&PORT)]), 0),
        "",
        "Published ports, `\"HOST:GUEST\"` or a table.",
    )
    .merge(Ports)
    .later(),
    key("secrets", NAMES, "", "Secrets whose placeholders it sees.").merge(Union).later(),
    key("replicas", Ty::Int(1, 1000), "1", "How many of it run. Only 1 is carried out by this version."),
    key("hooks", Ty::Table(&HOOKS), "", "Commands in the guest around the life of the workload."),
    key("lifecycle", Ty::Table(&LIFECYCLE), "", "Limits on what a plan may do to it."),
    key("watch", Ty::List(&Ty::Table(&WATCH), 0), "", "What `msb watch` reacts to.").merge(Append).later(),
    key(
        "network",
        Ty::Any(&[Ty::Text(&kinds::NAME), Ty::Table(&NETWORK)]),
        "`policy = \"public-only\"`",
        "Network policy, or the name of a shared one (`[network.NAME]`). This version gives guests no network device; it carries out `policy = \"none\"` and the absence of this key.",
    ),
];

/// `[sandbox.NAME]` and `[templates.NAME]`.
pub(crate) static SANDBOX: TableDef = TableDef {
    name: "a sandbox",
    path: "sandbox.*",
    doc: "A sandbox. `[templates.NAME]` has the same keys and is never started; `[defaults]` has them but for `extends`, `unset` and `profiles`.",
    keys: &KEYS,
    rules: &[],
    whole: false,
};

/// `[defaults]`.
pub(crate) static DEFAULTS: TableDef = TableDef {
    name: "the defaults",
    path: "defaults",
    doc: "Merged under every sandbox of the same file.",
    keys: DEFAULT_KEYS,
    rules: &[],
    whole: false,
};

static DEFAULT_KEYS: &[Key] = KEYS.split_at(NOT_IN_DEFAULTS).1;

pub(crate) static IMAGE: TableDef = TableDef {
    name: "an image",
    path: "sandbox.*.image",
    doc: "The long form of `image`.",
    keys: &[
        key("oci", Ty::Text(&kinds::OCI), "", "An OCI reference."),
        key(
            "dir",
            HOST_PATH,
            "",
            "A host directory: an OCI layout (with `#tag` if need be), else a root file system, of which an image is made; it is never written to.",
        ),
        key("archive", HOST_PATH, "", "An archive made by `docker save` or as an OCI archive."),
        key(
            "disk",
            HOST_PATH,
            "",
            "A disk image: raw, qcow2 or VMDK, as its content says, with a file system of Linux on the whole disk or in a partition.",
        ),
        key(
            "platform",
            Ty::Text(&kinds::PLATFORM),
            "`linux/` and the host's architecture",
            "Which image of an index.",
        ),
        key(
            "fstype",
            Ty::Text(&kinds::NOT_EMPTY),
            "",
            "The file system of a disk image, where it cannot be told.",
        ),
        key(
            "partition",
            Ty::Int(1, 128),
            "the only one with a file system of Linux",
            "The partition of a disk image that holds the root file system.",
        ),
        key(
            "writable",
            Ty::Bool,
            "false",
            "Whether the guest writes to the disk image itself, one sandbox at a time, and has no disk of its own.",
        ),
    ],
    rules: &[
        ExactlyOne(&["oci", "dir", "archive", "disk"]),
        Needs("fstype", "disk"),
        Needs("partition", "disk"),
        Needs("writable", "disk"),
    ],
    whole: false,
};

pub(crate) static MOUNT: TableDef = TableDef {
    name: "a mount",
    path: "sandbox.*.volumes.*",
    doc: "A mount; its key is the guest path.",
    keys: &[
        key("bind", HOST_PATH, "", "A file or directory of the host."),
        key("named", Ty::Text(&kinds::NAME), "", "A declared volume."),
        key("tmpfs", Ty::True, "", "Memory of the guest."),
        key("readonly", Ty::Bool, "false", "The guest cannot write; enforced outside the guest."),
        key("create", Ty::Bool, "false", "Make the host directory when it is missing."),
        key("size", SIZE, "half of the guest's memory", "The most that a tmpfs holds."),
        key("mode", MODE, "`\"0755\"`", "Permission bits of a tmpfs's root."),
    ],
    rules: &[
        ExactlyOne(&["bind", "named", "tmpfs"]),
        Needs("create", "bind"),
        Needs("size", "tmpfs"),
        Needs("mode", "tmpfs"),
    ],
    whole: false,
};

pub(crate) static PATCH: TableDef = TableDef {
    name: "a patch",
    path: "sandbox.*.patches[]",
    doc: "One change to the image; exactly one of `text`, `mkdir`, `append`, `copy_file`, `copy_dir`, `symlink` and `remove`.",
    keys: &[
        key("text", GUEST_PATH, "", "Writes `content` to this file."),
        key(
            "mkdir",
            GUEST_PATH,
            "",
            "Makes this directory and its parents; one that is there gets `mode` only.",
        ),
        key("append", GUEST_PATH, "", "Appends `content` to this file of the image."),
        key("copy_file", HOST_PATH, "", "Copies this file of the project to `to`."),
        key(
            "copy_dir",
            HOST_PATH,
            "",
            "Copies this directory of the project to `to`, links as links.",
        ),
        key("symlink", Ty::Text(&kinds::NOT_EMPTY), "", "Makes a symbolic link to this at `at`."),
        key("remove", GUEST_PATH, "", "Removes this file or tree, if it is there."),
        key("content", Ty::Text(&kinds::CONTENT), "", "What is written."),
        key("to", GUEST_PATH, "", "Where a copy goes."),
        key("at", GUEST_PATH, "", "Where a link is made."),
        key(
            "mode",
            MODE,
            "",
            "Permission bits; default `0644` for `text`, `0755` for `mkdir`, those of the source for a copy.",
        ),
        key(
            "replace",
            Ty::Bool,
            "false",
            "Whether the target may exist; a copied directory is then merged into it.",
        ),
    ],
    rules: &[
        ExactlyOne(&["text", "mkdir", "append", "copy_file", "copy_dir", "symlink", "remove"]),
        Needs("text", "content"),
        Needs("append", "content"),
        Needs("copy_file", "to"),
        Needs("copy_dir", "to"),
        Needs("symlink", "at"),
    ],
    whole: true,
};

pub(crate) static HEALTHCHECK: TableDef = TableDef {
    name: "a health check",
    path: "sandbox.*.healthcheck",
    doc: "How to find out whether a sandbox is healthy; exactly one of `exec`, `shell`, `http` and `tcp`.",
    keys: &[
        key("exec", COMMAND, "", "A command in the guest; exit code 0 is healthy."),
        key(
            "shell",
            Ty::Text(&kinds::NOT_EMPTY),
            "",
            "A script for the sandbox's shell; exit code 0 is healthy.",
        ),
        key(
            "http",
            Ty::Text(&kinds::URL),
            "",
            "A GET in the guest, without TLS; a status from 200 to 399 is healthy.",
        ),
        key(
            "tcp",
            Ty::Text(&kinds::TCP_TARGET),
            "",
            "A connection in the guest, to a port or `address:port`.",
        ),
        key(
            "interval",
            DURATION,
            "`\"5s\"`",
            "Time from the end of a probe to the start of the next.",
        ),
        key("timeout", DURATION, "`\"5s\"`", "A probe that takes longer has failed."),
        key(
            "retries",
            Ty::Int(1, 1_000_000),
            "3",
            "Failures in a row after which it is unhealthy.",
        ),
        key(
            "start_period",
            DURATION,
            "`\"0s\"`",
            "Failures in this time after the start do not count.",
        ),
    ],
    rules: &[ExactlyOne(&["exec", "shell", "http", "tcp"])],
    whole: false,
};

pub(crate) static DEPENDENCY: TableDef = TableDef {
    name: "a dependency",
    path: "sandbox.*.depends_on.*",
    doc: "The long form of a dependency.",
    keys: &[
        key(
            "condition",
            CONDITION,
            "`\"started\"`",
            "What it must have reached: its workload runs, its health check passes, or the job has exited with 0.",
        ),
        key(
            "required",
            Ty::Bool,
            "true",
            "Whether its absence or failure keeps the dependent from starting.",
        ),
        key(
            "restart",
            Ty::Bool,
            "false",
            "Whether the dependent restarts when it is replaced or restarted.",
        ),
    ],
    rules: &[],
    whole: false,
};

pub(crate) static PORT: TableDef = TableDef {
    name: "a port mapping",
    path: "sandbox.*.ports[]",
    doc: "The long form of a published port.",
    keys: &[
        key(
            "host",
            Ty::Any(&[PORT_NUMBER, Ty::Word(&["auto"])]),
            "",
            "The port on the host; `\"auto\"` is a free one, kept across restarts.",
        )
        .later(),
        key("guest", PORT_NUMBER, "", "The port in the guest.").later(),
        key("bind", Ty::Text(&kinds::ADDRESS), "`\"127.0.0.1\"`", "The host address that listens.")
            .later(),
    ],
    rules: &[Required("host"), Required("guest")],
    whole: true,
};

pub(crate) static HOOKS: TableDef = TableDef {
    name: "hooks",
    path: "sandbox.*.hooks",
    doc: "Commands in the guest around the life of the workload, in order.",
    keys: &[
        key(
            "post_start",
            Ty::List(&COMMAND, 0),
            "",
            "Run once the workload has started; one that fails is a start that failed.",
        )
        .merge(Append),
        key(
            "pre_stop",
            Ty::List(&COMMAND, 0),
            "",
            "Run before the stop signal, within the grace period.",
        )
        .merge(Append),
    ],
    rules: &[],
    whole: false,
};

pub(crate) static LIFECYCLE: TableDef = TableDef {
    name: "a lifecycle",
    path: "sandbox.*.lifecycle",
    doc: "Limits on what a plan may do to a sandbox.",
    keys: &[
        key(
            "replace",
            Ty::Word(&["stop-first", "start-first"]),
            "`\"stop-first\"`",
            "In which order a replacement happens. Only `\"stop-first\"` is carried out by this version.",
        ),
        key(
            "ignore",
            Ty::List(&Ty::Text(&kinds::NOT_EMPTY), 0),
            "",
            "Fields (globs such as `\"labels.*\"`) whose changes are not acted on.",
        )
        .merge(Union),
        key("protect", Ty::Bool, "false", "Never remove or replace without being asked by name."),
    ],
    rules: &[],
    whole: false,
};

pub(crate) static WATCH: TableDef = TableDef {
    name: "a watch rule",
    path: "sandbox.*.watch[]",
    doc: "What `msb watch` does when host files change.",
    keys: &[
        key("path", HOST_PATH, "", "The host file or directory that is watched.").later(),
        key(
            "target",
            GUEST_PATH,
            "",
            "Where changed files go in the guest; needed by `sync` and `sync-restart`.",
        )
        .later(),
        key(
            "action",
            Ty::Word(&["sync", "sync-restart", "restart", "replace"]),
            "",
            "What a change does.",
        )
        .later(),
        key(
            "ignore",
            Ty::List(&Ty::Text(&kinds::NOT_EMPTY), 0),
            "",
            "Globs of paths that are left out.",
        )
        .later(),
    ],
    rules: &[Required("path"), Required("action")],
    whole: true,
};
