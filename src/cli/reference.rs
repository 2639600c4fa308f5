//! `docs/cli.md`, made from the definitions in `args`.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::args::Cli;

/// Exit codes as the reference states them.
const EXIT_CODES: &str = "\
| code | meaning |
|---|---|
| 0 | done |
| 1 | an operation failed |
| 2 | `plan --detailed-exitcode`: there is something to do |
| 3 | the Sandboxfile or its lock file is invalid or missing, or `--locked` refused |
| 4 | waiting took too long |
| 5 | a dependency failed or is unhealthy |
| 6 | another command is changing the project |
| 7 | a confirmation is needed and nobody can be asked |
| 64 | the command line makes no sense |
| 124 | `exec`, `shell`, `run`: the command took longer than `--timeout` and was killed |
| 125 | a part that runs microVMs is missing |
| 126, 127 | `exec`, `shell`, `run`: the command cannot be executed, or does not exist |
| *n* | `exec`, `shell`, `run`, `attach`, `wait`: the code of the command in the guest, 128 + *n* for signal *n* |
| 130 | interrupted |
| 141 | whoever read the output went away |
";

/// The documents of the image commands, as the reference states them.
const DOCUMENTS: &str = "\
Fields are added, never renamed or removed, within a version. Sizes are in bytes, `_ms` are milliseconds since the Unix epoch;
`disk_bytes` is what the disk gives up, which for sparse files is less than their size.

`msb.images/1` (`images ls`): `images`, a list of images, and `saving_bytes`, what layers in common save. An image has

| field | meaning |
|---|---|
| `digest` | digest of its manifest: its identity |
| `names` | what names it: `name` (a normalised reference, `dir:PATH` or `archive:PATH`) and the `platform` it was asked for |
| `platform` | what it was made for, or null |
| `disk_bytes` | its bootable file |
| `layer_bytes`, `shared_bytes` | its compressed layers on this machine, and those of them that other images have too |
| `pulled_ms` | when it came to this machine |
| `used_by` | the sandboxes, running or not, whose disks belong to it: `project` and `sandbox` |

`msb.image/1` (`images inspect`): the fields of an image, and `file` (its bootable file, or null), `config` (`entrypoint`, `cmd`, `env`,
`workdir`, `user`, `stop_signal`, `labels`, `volumes`, `exposed_ports`; what is empty is left out) and `layers`, lowest first: `digest`,
`size_bytes`, `stored` (whether it is on this machine) and `images` (how many images here have it).

`msb.df/1` (`df`): `kinds`, a list of `kind` (`images`, `layers`, `patches`, `sandboxes`, `volumes`, `other`), `count` (or null), `disk_bytes`,
`disk_complete` (whether all of it was counted: of each volume a million entries are) and `reclaimable_bytes` (what `msb images prune --all`, of volumes `msb volume prune`, would free).
";

/// What `msb volume ls` and `inspect` print.
const VOLUMES: &str = "\
`msb.volumes/1` (`volume ls`, `volume inspect`): `volumes`, a list. A volume has

| field | meaning |
|---|---|
| `id`, `project`, `name` | what it is; `project` is null for one that `msb volume create` made |
| `kind`, `path` | `disk` or `dir`, and its file or directory on this machine |
| `quota_bytes` | the size of a disk; null for a directory |
| `used_bytes`, `used_complete` | what the disk of this machine gives up, and whether all of it was counted (a directory of more than a million entries is not) |
| `labels`, `protect`, `origin_file` | what was declared, and where |
| `created_ms` | when it was made |
| `used_by` | the sandboxes, running or not, that mount it: `project` and `sandbox` |
";

/// The lines and documents of `events` and `graph`.
const WATCHING: &str = "\
`msb.events/1` (`events --format json`), one object a line: `seq` (rises; `--since-seq` goes on after it), `time`, `project`, `sandbox`,
`sandbox_id`, `kind` and `detail`. Kinds are the words of `status`, the words of `health`, `created` and `removed`; more may come. The detail of
`stopped` and `crashed` has `exit_code` and `error`, that of `restarting` also `restarts` and `restart_at_ms`, and that of `unhealthy` the
`output` of the probe. The last 10,000 events of a machine are kept.

`msb.stats/1` (`stats --format json`), one document a second: `project` and `sandboxes`, those that answer, each with `name`, `id` and `metrics`:
`cpu_percent` (of one processor, since the last measurement), `memory_bytes` (in use in the guest), `memory_limit_bytes`, `host_memory_bytes` (the VM's process on
this machine), `disk_read_bytes`, `disk_write_bytes`, `net_rx_bytes` and `net_tx_bytes` (since its start), `uptime_ms` and `timestamp_ms`.

`msb.graph/1` (`graph --format json`): `project`, `sandboxes` in the order of starts, each with `name` and `kind`, and `edges`, each with `from` (the
dependent), `to`, `condition`, `required` and `restart`.
";

/// What `msb inspect` prints.
const INSPECT: &str = "\
`msb.inspect/1`, printed by `msb inspect`: `schema`, `project`, and `sandboxes` in the order of the command line. Fields may be
added; none is removed or changes its meaning. Times are milliseconds since the Unix epoch. What is not known is `null`.

| field | meaning |
|---|---|
| `id`, `name` | the sandbox |
| `status` | `created`, `starting`, `running`, `draining`, `restarting`, `stopped` or `crashed` ([lifecycle.md](lifecycle.md)) |
| `health` | `starting`, `healthy` or `unhealthy`; `null` without a health check |
| `exit_code`, `error` | how the workload, or the run, ended |
| `created_ms`, `started_ms`, `finished_ms` | when it was made, last started and last ended |
| `image`, `image_digest` | the reference as declared, and the manifest digest that it meant |
| `driver` | what runs it: `krun` or `qemu` |
| `restarts`, `restart_at_ms` | runs that its restart policy has begun, and when the next begins while it is `restarting` |
| `supervisor_pid`, `vm_pid`, `run_id` | the processes of this run; `null` when it does not run |
| `disk` | its writable disk |
| `mounts` | what is mounted in it, by guest path: `path`, `kind` (`bind`, `disk`, `dir` or `tmpfs`), `source` (on this machine), `volume` and `readonly` |
| `protect`, `origin_file`, `spec_hash`, `spec` | what was declared and where, the declaration in its canonical form |
| `jail` | the layers of the VM's jail in the order of application, each with `layer`, `applied` and `reason`; `null` when it does not run ([security.md](security.md)) |

`msb doctor --format json` has the same `jail`, as it holds for a program that does nothing.
";

/// The reference of every command, in Markdown.
pub fn reference() -> String {
    let mut root = Cli::command().term_width(96);
    root.build();
    let mut text = String::from(
        "# Command line\n\n\
         Made from the program's own help; `UPDATE_EXPECT=1` on the test `cli_docs` renews it.\n\n\
         Progress and messages go to standard error, data to standard output. With `--format json` \
         a listing is one JSON\ndocument whose `schema` names its contract, such as `msb.ps/1`. \
         `NO_COLOR` turns colours off.\n\n",
    );
    section(&mut text, &mut root, "msb");
    text.push_str("## JSON documents of images\n\n");
    text.push_str(DOCUMENTS);
    text.push_str("\n## JSON documents of volumes\n\n");
    text.push_str(VOLUMES);
    text.push_str("\n## JSON of `inspect`\n\n");
    text.push_str(INSPECT);
    text.push_str("\n## JSON of `events`, `stats` and `graph`\n\n");
    text.push_str(WATCHING);
    text.push_str("\n## Exit codes\n\n");
    text.push_str(EXIT_CODES);
    text
}

fn section(text: &mut String, command: &mut Command, path: &str) {
    let help = command.render_long_help().to_string();
    let _ = write!(text, "## {path}\n\n```text\n");
    for line in help.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n\n");
    for child in command.get_subcommands_mut() {
        if !child.is_hide_set() {
            let name = format!("{path} {}", child.get_name());
            section(text, child, &name);
        }
    }
}
